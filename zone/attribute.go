package zone

import (
	"cmp"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/xds"
)

// sourcesOf finds the rules that an Envoy resource was made of: those at fault when
// a proxy refuses it. Where no policy had a say it is the proxy's own Dataplane.
func sourcesOf(p *ir.Proxy, typeURL, name string, dataplane mesh.Key) []ir.Source {
	var out []ir.Source
	add := func(sources ...ir.Source) {
		for _, s := range sources {
			if s.Key != (mesh.Key{}) && !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	confs := func(list ir.Confs) {
		for _, c := range list {
			add(c.Sources...)
		}
	}
	inbound := func(in *ir.Inbound) {
		confs(in.Confs)
		for _, m := range in.Rules {
			add(m.Source)
		}
	}
	for i := range p.Inbounds {
		in := &p.Inbounds[i]
		switch name {
		case xds.PermissionName(in.Name):
			for _, list := range [][]ir.PermissionMatch{in.Permission.Deny, in.Permission.AllowWithShadowDeny, in.Permission.Allow} {
				for _, m := range list {
					add(m.Source)
				}
			}
		case xds.InboundName(in.Name), xds.InboundListener:
			inbound(in)
		}
	}
	for i := range p.Outbounds {
		o := &p.Outbounds[i]
		own := name == o.Name || name == xds.OutboundListenerName(o.Address, o.Port) || typeURL == xds.ListenerType && name == xds.OutboundListener
		if !own || typeURL == xds.ClusterType {
			continue
		}
		add(o.Source)
		confs(o.Confs)
		for _, r := range o.Routes {
			add(r.Source)
			confs(r.Confs)
		}
	}
	for i := range p.Destinations {
		if d := &p.Destinations[i]; d.Name == name && typeURL == xds.ClusterType {
			confs(d.Confs)
			if len(out) == 0 {
				out = append(out, ir.Source{Key: d.Backend})
			}
		}
	}
	if len(out) == 0 {
		out = append(out, ir.Source{Key: dataplane})
	}
	slices.SortFunc(out, func(a, b ir.Source) int {
		return cmp.Or(compareKeys(a.Key, b.Key), cmp.Compare(a.Path, b.Path))
	})
	return out
}
