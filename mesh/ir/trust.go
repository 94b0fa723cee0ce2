package ir

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"slices"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// trust is the trust of the mesh, and the problems of it, as they are or as remembered.
func (b *compiler) trust(memo *Memo) {
	identities, trusts := b.objects(mesh.KindMeshIdentity), b.objects(mesh.KindMeshTrust)
	if memo != nil {
		if known, ok := memo.trust(b.class.Mesh, b.r.Zone(), identities, trusts); ok {
			b.proxy.Trust, b.proxy.Problems = known.bundles, append(b.proxy.Problems, known.problems...)
			return
		}
	}
	before := len(b.proxy.Problems)
	b.proxy.Trust = b.join(policyResources(identities), policyResources(trusts))
	if memo != nil {
		memo.remember(b.class.Mesh, remembered{zone: b.r.Zone(), identities: slices.Clone(identities), trusts: slices.Clone(trusts),
			bundles: b.proxy.Trust, problems: slices.Clone(b.proxy.Problems[before:])})
	}
}

// join joins the bundles of the mesh by trust domain. A zone's MeshTrust counts
// for the trust domains that the mesh's identities yield for that zone and for
// no other, whatever global let pass: a zone can only vouch for itself. The
// result is nil when there is nothing to trust; an empty set must never be sent.
func (b *compiler) join(identities, trusts []mesh.PolicyResource) []TrustBundle {
	domains := map[string][]string{}
	believed := map[string][]string{}
	for _, o := range trusts {
		spec, ok := o.Decoded.(*mesh.MeshTrust)
		if !ok {
			continue
		}
		if o.Zone != "" {
			own, ok := believed[o.Zone]
			if !ok {
				own = mesh.TrustDomainsOf(identities, o.Mesh, o.Zone)
				believed[o.Zone] = own
			}
			if !slices.Contains(own, spec.TrustDomain) {
				b.problem(o.Key, "trust domain %q is not one of zone %s (%s): the bundle is not believed", spec.TrustDomain, o.Zone, strings.Join(own, ", "))
				continue
			}
		}
		for i, c := range spec.CABundles {
			certs, ok := certificates(c.PEM.Value)
			if !ok {
				b.problem(o.Key, "caBundles[%d].pem.value: holds something else than certificates, which is left out", i)
			}
			domains[spec.TrustDomain] = append(domains[spec.TrustDomain], certs...)
		}
	}
	var out []TrustBundle
	for _, name := range slices.Sorted(maps.Keys(domains)) {
		certs := domains[name]
		slices.Sort(certs)
		certs = slices.Compact(certs)
		if name != "" && len(certs) > 0 {
			out = append(out, TrustBundle{TrustDomain: name, PEM: strings.Join(certs, "")})
		}
	}
	return out
}

// certificates takes PEM text apart, each certificate in one canonical form. It
// reports whether there was nothing else in the text.
func certificates(text string) (certs []string, clean bool) {
	clean = true
	rest := []byte(text)
	for {
		var block *pem.Block
		before := rest
		if block, rest = pem.Decode(rest); block == nil {
			return certs, clean && len(certs) > 0 && len(bytes.TrimSpace(before)) == 0
		}
		if block.Type != "CERTIFICATE" {
			clean = false
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			clean = false
			continue
		}
		certs = append(certs, string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})))
	}
}
