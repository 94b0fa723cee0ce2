package zone

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
)

const bothInbounds = `{"name":"http","port":8080,"protocol":"http"},{"name":"tcp","port":9090,"protocol":"tcp"}`

// What has mTLS and a permission does not lose either since something is missing,
// unreadable or gone: whatever happens, its listeners ask for certificates of the
// same authorities, each has a permission, and nobody gets in who was refused.
func TestNothingMissingOpensAListener(t *testing.T) {
	key := func(kind mesh.KindName, name string) mesh.Key {
		return mesh.Key{Kind: kind, Mesh: "default", Name: name}
	}
	broken := func(kind mesh.KindName, name string) mesh.Change {
		return put(mesh.Resource{Key: key(kind, name), Spec: []byte(`{"rules":"nonsense","spiffeID":7,"trustDomain":[],"caBundles":3}`), Labels: map[string]string{}})
	}
	foreign := func(list string) mesh.Change {
		return put(resource(t, mesh.KindMeshTrafficPermission, "default", "", "allow", fmt.Sprintf(
			`{"rules":[{"default":{%q:[{"spiffeID":{"type":"Regex","value":".*"}}]}}]}`, list)))
	}
	trust := func(name, td string) mesh.Change {
		return put(resource(t, mesh.KindMeshTrust, "default", "", name, fmt.Sprintf(
			`{"trustDomain":%q,"caBundles":[{"type":"Pem","pem":{"value":%q}}]}`, td, testAuthority(t, td))))
	}
	empty := func(r *rig) func(b *batch) {
		return func(b *batch) {
			var all []mesh.Change
			for _, k := range sortedKeys(r.e.synced) {
				all = append(all, del(k))
			}
			b.must.ReplaceResources = true
			r.push(all...)(b)
		}
	}
	for name, loss := range map[string]func(r *rig) func(b *batch){
		"the identity is deleted":          func(r *rig) func(b *batch) { return r.push(del(key(mesh.KindMeshIdentity, "identity"))) },
		"the identity cannot be decoded":   func(r *rig) func(b *batch) { return r.push(broken(mesh.KindMeshIdentity, "identity")) },
		"an authored trust is deleted":     func(r *rig) func(b *batch) { return r.push(del(key(mesh.KindMeshTrust, "partner"))) },
		"an authored trust is undecodable": func(r *rig) func(b *batch) { return r.push(broken(mesh.KindMeshTrust, "partner")) },
		"the allow is deleted":             func(r *rig) func(b *batch) { return r.push(del(key(mesh.KindMeshTrafficPermission, "allow"))) },
		"the allow cannot be decoded":      func(r *rig) func(b *batch) { return r.push(broken(mesh.KindMeshTrafficPermission, "allow")) },
		"the allow is of a newer version":  func(r *rig) func(b *batch) { return r.push(foreign("allow")) },
		"a deny of a newer version comes":  func(r *rig) func(b *batch) { return r.push(foreign("deny")) },
		"the deny cannot be decoded":       func(r *rig) func(b *batch) { return r.push(broken(mesh.KindMeshTrafficPermission, "deny")) },
		"the mesh is deleted":              func(r *rig) func(b *batch) { return r.push(del(mesh.Key{Kind: mesh.KindMesh, Name: "default"})) },
		"global has nothing any more":      empty,
		"the authorities of others are gone": func(r *rig) func(b *batch) {
			return r.push(del(mesh.Key{Kind: mesh.KindMeshTrust, Mesh: "default", Zone: "west", Name: "t"}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "east")
			west := resource(t, mesh.KindMeshTrust, "default", "west", "t", fmt.Sprintf(
				`{"trustDomain":"default.west.mesh.local","caBundles":[{"type":"Pem","pem":{"value":%q}}]}`, testAuthority(t, "default.west.mesh.local")))
			r.turn(r.push(identityOf(t, "default"), trust("partner", "partner.example"), put(west),
				put(resource(t, mesh.KindMesh, "", "", "default", `{}`)),
				put(resource(t, mesh.KindMeshTrafficPermission, "default", "", "allow", `{"rules":[{"default":{"allow":[{"spiffeID":{"type":"Prefix","value":"spiffe://default.east.mesh.local/"}}]}}]}`)),
				put(resource(t, mesh.KindMeshTrafficPermission, "default", "", "deny", `{"rules":[{"default":{"deny":[{"spiffeID":{"type":"Exact","value":"spiffe://default.east.mesh.local/workload/evil"}}]}}]}`))))
			r.turn(r.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", bothInbounds)))
			before := guarded(t, r)
			for _, step := range []string{"it", "a restart after it"} {
				if step == "it" {
					r.turn(loss(r))
				} else {
					r.restart()
				}
				after := guarded(t, r)
				for i := range before {
					for _, l := range effect.Permissions(before[i].Name, before[i].Permission, after[i].Permission) {
						if l.Bearing == effect.Widens {
							t.Errorf("%s lets in: %s", step, l)
						}
					}
				}
			}
		})
	}
}

// guarded returns the inbounds of web-1, and fails where one of them is open.
func guarded(t *testing.T, r *rig) []ir.Inbound {
	t.Helper()
	p := r.e.proxies[dataplaneKey("web-1")]
	if !p.class.proxy.HasIdentity || len(p.class.proxy.Inbounds) != 2 {
		t.Fatalf("web-1 has identity %v and %d inbounds", p.class.proxy.HasIdentity, len(p.class.proxy.Inbounds))
	}
	if p.decision == nil {
		t.Error("web-1 would get no certificate any more")
	}
	has := published(r.out, p)
	for _, in := range []string{"http", "tcp"} {
		listener := has["type.googleapis.com/envoy.config.listener.v3.Listener self_inbound_dp_"+in]
		if !strings.Contains(listener, "DownstreamTlsContext") || !strings.Contains(listener, "rbac_"+in) {
			t.Errorf("the listener of %s asks for no certificate, or for no permission", in)
		}
		if has["type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig rbac_"+in] == "" {
			t.Errorf("%s has no permission", in)
		}
	}
	if has["type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret bundles"] == "" {
		t.Error("nobody is trusted: every peer would be refused, or none asked")
	}
	return p.class.proxy.Inbounds
}
