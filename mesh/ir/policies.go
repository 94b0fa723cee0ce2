package ir

import (
	"slices"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// structural kinds shape the proxy itself: they have fields of their own in the
// IR. Every other policy kind is carried as a configuration, see Confs.
func structural(kind mesh.KindName) bool {
	switch kind {
	case mesh.KindMeshTrafficPermission, mesh.KindMeshHTTPRoute, mesh.KindMeshTCPRoute:
		return true
	}
	return false
}

// confKinds are the policy kinds that are carried as configurations.
func confKinds() []mesh.Kind {
	return slices.DeleteFunc(mesh.Kinds(), func(k mesh.Kind) bool { return k.Policy == nil || structural(k.Name) })
}

// confsOf merges what every policy kind says of a destination, once a compile.
func (b *compiler) confsOf(t *backend) Confs {
	name := t.name()
	confs, ok := b.confs[name]
	if !ok {
		confs = b.outboundConfs(destinationOf(t))
		b.confs[name] = confs
	}
	return confs
}

// outboundConfs merges what every policy kind says of a destination.
func (b *compiler) outboundConfs(dest mesh.Destination) Confs {
	var out Confs
	for _, k := range b.kinds {
		if !k.Policy.To {
			continue
		}
		if conf, sources := mesh.AnyOutboundConf(b.policies(k.Name), dest); conf != nil {
			out = append(out, EffectiveConf{Kind: k.Name, Conf: conf, Sources: sourcesOf(sources)})
		}
	}
	return out
}

// inboundConfs merges what every policy kind says of the callers of an inbound.
func (b *compiler) inboundConfs(in ClassInbound) (Confs, []MatchedConf) {
	var all Confs
	var matched []MatchedConf
	for _, k := range b.kinds {
		if !k.Policy.Rules {
			continue
		}
		for _, rule := range mesh.AnyInboundConf(b.policies(k.Name), in.Name) {
			if rule.Match == nil {
				all = append(all, EffectiveConf{Kind: k.Name, Conf: rule.Conf, Sources: sourcesOf(rule.Sources)})
				continue
			}
			source := Source(rule.Sources[0])
			m, exact := b.match(*rule.Match, in)
			if !exact || b.foreign(k.Name, source) {
				b.problem(source.Key, "%s: a match that this zone does not understand is left out", source.Path)
				continue
			}
			matched = append(matched, MatchedConf{Match: m, Kind: k.Name, Conf: rule.Conf, Source: source})
		}
	}
	return all, matched
}

func sourcesOf(list []mesh.ConfSource) []Source {
	out := make([]Source, len(list))
	for i, s := range list {
		out[i] = Source(s)
	}
	return out
}

// permission of an inbound. It fails closed: a match that this zone does not
// understand (it may come from a newer global) allows nobody, and denies
// everybody that the understood part of it matches.
func (b *compiler) permission(in ClassInbound) Permission {
	set := mesh.Permissions(b.policies(mesh.KindMeshTrafficPermission), in.Name)
	return Permission{
		Deny:                b.permissionMatches(in, set.Deny, true),
		AllowWithShadowDeny: b.permissionMatches(in, set.AllowWithShadowDeny, false),
		Allow:               b.permissionMatches(in, set.Allow, false),
	}
}

func (b *compiler) permissionMatches(in ClassInbound, list []mesh.PermissionEntry, deny bool) []PermissionMatch {
	var out []PermissionMatch
	for _, e := range list {
		source := Source(e.Source)
		m, exact := b.match(e.Match, in)
		switch {
		case exact && !b.foreign(mesh.KindMeshTrafficPermission, source):
		case deny:
			b.problem(source.Key, "%s: a match that this zone does not understand; it denies whatever the rest of it matches", source.Path)
			if m.SpiffeID == nil && m.SNI == nil {
				m.SpiffeID = &mesh.SpiffeIDMatch{Type: mesh.MatchPrefix, Value: anySpiffeID}
			}
		default:
			b.problem(source.Key, "%s: a match that this zone does not understand; it allows nobody", source.Path)
			continue
		}
		out = append(out, PermissionMatch{Match: m, Source: source})
	}
	return out
}

// foreign reports whether a match has fields that this zone does not know.
func (b *compiler) foreign(kind mesh.KindName, source Source) bool {
	paths, ok := b.foreigners[source.Key]
	if !ok {
		for _, s := range b.policies(kind) {
			if s.Key == source.Key {
				paths = foreignMatches(s.Spec)
			}
		}
		b.foreigners[source.Key] = paths
	}
	return paths[source.Path]
}

// anySpiffeID is a prefix of every SPIFFE ID.
const anySpiffeID = "spiffe://"

// match translates a match for one inbound. It reports whether all of it is
// understood; what is not is left out of the result. A match without any part
// is not understood.
func (b *compiler) match(m mesh.Match, in ClassInbound) (mesh.Match, bool) {
	var out mesh.Match
	exact := m.SpiffeID != nil || m.SNI != nil
	if s := m.SpiffeID; s != nil {
		if s.Value != "" && (s.Type == mesh.MatchExact || s.Type == mesh.MatchPrefix) {
			out.SpiffeID = s
		} else {
			exact = false
		}
	}
	if s := m.SNI; s != nil {
		if s.Value != "" && s.Type == mesh.MatchExact {
			out.SNI = &mesh.SNIMatch{Type: s.Type, Value: b.sni(s.Value, in)}
		} else {
			exact = false
		}
	}
	return out, exact
}

// aliasPrefix begins the longer form of an SNI that users may write.
const aliasPrefix = "sni.msvc."

// sni translates the longer form into the SNI that callers really ask for, if
// it names a service behind this inbound. The services are read only then.
func (b *compiler) sni(value string, in ClassInbound) string {
	if !strings.HasPrefix(value, aliasPrefix) {
		return value
	}
	names, ok := b.aliases[in.Name]
	if !ok {
		names = b.aliasesOf(in)
		b.aliases[in.Name] = names
	}
	return or(names[value], value)
}

func (b *compiler) aliasesOf(in ClassInbound) map[string]string {
	names := map[string]string{}
	zone := b.r.Zone()
	for _, o := range b.r.List(Query{Kind: mesh.KindMeshService, Mesh: b.class.Mesh, Index: ByZone, Value: zone}) {
		spec, ok := o.Decoded.(*mesh.MeshService)
		if !ok || !mesh.MatchService(spec.Selector, b.meta.Labels, b.meta.Name) {
			continue
		}
		for _, p := range spec.Ports {
			if isTarget(p, in) {
				alias := mesh.SNIAlias(o.Mesh, zone, o.Labels[mesh.LabelNamespace], o.DisplayName(), p.SectionName())
				names[alias] = mesh.SNI(p.Port, o.Name, zone, o.Mesh)
			}
		}
	}
	return names
}

// Built-in timeouts, which hold where no policy says otherwise.
func defaultOutbound() Timeouts {
	return Timeouts{Connect: 5 * time.Second, Idle: time.Hour, Request: 15 * time.Second, StreamIdle: 30 * time.Minute}
}

func defaultInbound() Timeouts {
	return Timeouts{Connect: 10 * time.Second, Idle: 2 * time.Hour, StreamIdle: time.Hour}
}

func outboundTimeouts(confs Confs) Timeouts {
	t := defaultOutbound()
	overlayConfs(&t, confs)
	return t
}

// inboundTimeouts: what a matched rule does not say is as for everyone.
func inboundTimeouts(confs Confs, rules []MatchedConf) (Timeouts, []MatchedTimeouts) {
	all := defaultInbound()
	overlayConfs(&all, confs)
	var matched []MatchedTimeouts
	for _, m := range Matched[mesh.TimeoutConf](rules) {
		t := all
		overlay(&t, m.Conf.(mesh.TimeoutConf))
		t.Sources = append(append([]Source{}, all.Sources...), m.Source)
		matched = append(matched, MatchedTimeouts{Match: m.Match, Timeouts: t})
	}
	return all, matched
}

func overlayConfs(t *Timeouts, confs Confs) {
	if c, ok := Conf[mesh.TimeoutConf](confs); ok {
		overlay(t, c)
		t.Sources = Sources[mesh.TimeoutConf](confs)
	}
}

// overlay sets what the configuration says. Connect cannot be switched off.
func overlay(t *Timeouts, c mesh.TimeoutConf) {
	set := func(to *time.Duration, d *mesh.Duration) {
		if d != nil && d.Duration >= 0 {
			*to = d.Duration
		}
	}
	if c.ConnectionTimeout != nil && c.ConnectionTimeout.Duration > 0 {
		t.Connect = c.ConnectionTimeout.Duration
	}
	set(&t.Idle, c.IdleTimeout)
	if h := c.HTTP; h != nil {
		set(&t.Request, h.RequestTimeout)
		set(&t.StreamIdle, h.StreamIdleTimeout)
		set(&t.MaxStream, h.MaxStreamDuration)
		set(&t.MaxConnection, h.MaxConnectionDuration)
		set(&t.RequestHeaders, h.RequestHeadersTimeout)
	}
}
