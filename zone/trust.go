package zone

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/identity"
	"github.com/tombolo-mesh/tombolo/identity/ca"
	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/zone/disk"
)

// authorityKey: each mesh has authorities of its own, also where two meshes name
// the same trust domain.
type authorityKey struct{ mesh, trustDomain string }

// deriveTrust makes an authority for each trust domain that the mesh's identities
// yield here, durable before anything uses it, and returns their public bundles.
func (e *engine) deriveTrust(_ *batch, r ir.Reader, meshName string) []mesh.Resource {
	var out []mesh.Resource
	private := map[mesh.Key]bool{}
	for _, o := range r.List(ir.Query{Kind: mesh.KindMeshIdentity, Mesh: meshName, Index: ir.ByMesh}) {
		spec, ok := o.Decoded.(*mesh.MeshIdentity)
		if !ok || spec.Provider.Type != mesh.ProviderBundled {
			continue
		}
		for _, td := range mesh.TrustDomainsOf([]mesh.PolicyResource{mesh.PolicyResource(*o)}, meshName, e.cfg.zone) {
			slots, err := e.authority(authorityKey{meshName, td})
			if err != nil {
				e.log.Error("no authority for a trust domain", "mesh", meshName, "trust_domain", td, "error", err)
				continue
			}
			bundle, err := slots.Bundle()
			if err != nil {
				e.log.Error("no bundle for a trust domain", "mesh", meshName, "trust_domain", td, "error", err)
				continue
			}
			t := e.fact(mesh.KindMeshTrust, meshName, trustName(td), &mesh.MeshTrust{TrustDomain: td,
				CABundles: []mesh.CABundle{{Type: "Pem", PEM: mesh.PEMBundle{Value: string(bundle.PEM())}}}}, nil)
			b := spec.Provider.Bundled
			hidden := b != nil && b.MeshTrustCreation == "Disabled"
			if i := slices.IndexFunc(out, func(x mesh.Resource) bool { return x.Key == t.Key }); i < 0 {
				out = append(out, t)
				private[t.Key] = hidden
			} else {
				private[t.Key] = private[t.Key] && hidden
			}
		}
	}
	e.facts.hide(meshName, private)
	return out
}

// authority finds the authorities of a trust domain, or makes and saves one.
func (e *engine) authority(key authorityKey) (ca.Slots, error) {
	if s, ok := e.authorities[key]; ok {
		return s, nil
	}
	td, err := identity.ParseTrustDomain(key.trustDomain)
	if err != nil {
		return ca.Slots{}, err
	}
	s, err := ca.NewSlots(td, time.Now())
	if err != nil {
		return ca.Slots{}, err
	}
	text, err := s.Marshal()
	if err != nil {
		return ca.Slots{}, err
	}
	if err := e.cfg.disk.Commit(disk.Update{PutAuthorities: []disk.Authority{{Mesh: key.mesh, TrustDomain: key.trustDomain, Slots: text}}}); err != nil {
		return ca.Slots{}, err
	}
	e.authorities[key] = s
	e.log.Info("authority created", "mesh", key.mesh, "trust_domain", key.trustDomain)
	return s, nil
}

// trustName makes the name of a trust domain's MeshTrust: a DNS label, different
// for different domains, for example "default-west-mesh-local".
func trustName(td string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, td)
	plain := !strings.ContainsAny(td, "-_") && name[0] >= 'a' && len(name) <= 63
	if plain {
		return strings.Trim(name, "-")
	}
	sum := sha256.Sum256([]byte(td))
	name = "t-" + strings.Trim(name[:min(len(name), 44)], "-")
	return fmt.Sprintf("%s-%s", name, hex.EncodeToString(sum[:8]))
}

// errNoSecret is a Secret that cannot be decoded.
var errNoSecret = errors.New("it is no Secret")

// deriveTokens keeps the verifier of a mesh's dataplane tokens. While the list of
// revocations cannot be read the one before stays in force, and without one
// nobody new is let in: a revoked token is not good again because of an error.
func (e *engine) deriveTokens(b *batch, r ir.Reader, meshName string) []mesh.Resource {
	var keys []token.PublicKey
	var revoked []token.Revocation
	for _, o := range r.List(ir.Query{Kind: mesh.KindSecret, Mesh: meshName, Index: ir.ByMesh}) {
		if o.Zone != "" {
			continue
		}
		secret, decoded := o.Decoded.(*mesh.Secret)
		if o.Name == token.RevocationsName(token.Dataplane) {
			list, err := []token.Revocation(nil), errNoSecret
			if decoded {
				list, err = token.ParseRevocations(secret.Data)
			}
			if err != nil {
				e.log.Error("revocations cannot be read", "mesh", meshName, "error", err)
				if _, known := e.verifiers.Load(meshName); !known {
					e.verifiers.Store(meshName, token.NewVerifier(nil, nil))
				}
				return nil
			}
			revoked = list
		}
		use, n, ok := token.ParsePublicKeyName(o.Name)
		if !ok || !decoded || use != token.Dataplane {
			continue
		}
		key, err := token.ParsePublicKey(token.KeyID(use, n), secret.Data)
		if err != nil {
			e.log.Error("token key cannot be read", "mesh", meshName, "name", o.Name, "error", err)
			continue
		}
		keys = append(keys, key)
	}
	e.verifiers.Store(meshName, token.NewVerifier(keys, revoked))
	b.tokens = true
	return nil
}

// verifier of a mesh's dataplane tokens; nil when the mesh is not known.
func (e *engine) verifier(meshName string) *token.Verifier {
	v, ok := e.verifiers.Load(meshName)
	if !ok {
		return nil
	}
	return v.(*token.Verifier)
}
