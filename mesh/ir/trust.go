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

// trust joins the bundles of the mesh by trust domain. A zone's MeshTrust counts
// for the trust domains that the mesh's identities yield for that zone and for
// no other, whatever global let pass: a zone can only vouch for itself. The
// result is nil when there is nothing to trust; an empty set must never be sent.
func (b *compiler) trust() []TrustBundle {
	identities := b.list(mesh.KindMeshIdentity)
	domains := map[string][]string{}
	believed := map[string][]string{}
	for _, o := range b.list(mesh.KindMeshTrust) {
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
