package effect

import (
	"slices"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// Sign says how a line differs from before.
type Sign string

const (
	// Added: it was not there before.
	Added Sign = "+"
	// Removed: it is not there any more.
	Removed Sign = "-"
	// Changed: it is another than before.
	Changed Sign = "~"
)

// Area is what a line speaks of.
type Area string

const (
	// Identity of the proxies, and whether they have one.
	Identity Area = "identity"
	// Inbound ports.
	Inbound Area = "inbound"
	// Permission: who may call an inbound.
	Permission Area = "permission"
	// Outbound: what can be called, and where.
	Outbound Area = "outbound"
	// Route: where calls go.
	Route Area = "route"
	// Timeout of connections, requests and streams.
	Timeout Area = "timeout"
	// Conf is any other configuration of a policy.
	Conf Area = "conf"
	// Destination: the services, zones and identities behind a name.
	Destination Area = "destination"
	// Trust: whose certificates are believed.
	Trust Area = "trust"
	// Endpoints behind a name.
	Endpoints Area = "endpoints"
	// Name that applications resolve.
	Name Area = "name"
	// Other is a difference for which there are no better words.
	Other Area = "other"
)

// Bearing is what a line means for who may call.
type Bearing string

const (
	// Widens: callers get in that did not before.
	Widens Bearing = "widens"
	// Narrows: callers are refused that were not before.
	Narrows Bearing = "narrows"
	// Alters: neither.
	Alters Bearing = "changes"
)

// Cause is the authored line behind an effect.
type Cause struct {
	// Kind, Mesh and Name of the policy; a zone's own is "<name>.<zone>".
	Kind mesh.KindName `json:"kind"`
	Mesh string        `json:"mesh,omitempty"`
	Name string        `json:"name"`
	// Path inside its spec, for example "rules[0].default.allow[1]".
	Path string `json:"path,omitempty"`
}

// String is "MeshTrafficPermission default/deny-web rules[0].default.deny[0]".
func (c Cause) String() string {
	name := c.Name
	if c.Mesh != "" {
		name = c.Mesh + "/" + name
	}
	return strings.TrimSpace(string(c.Kind) + " " + name + " " + c.Path)
}

// CauseOf says a source in the words of the API.
func CauseOf(s ir.Source) Cause {
	return Cause{Kind: s.Key.Kind, Mesh: s.Key.Mesh, Name: s.Key.RESTName(), Path: s.Path}
}

// causes of sources that are known, without repetition.
func causes(sources ...ir.Source) []Cause {
	var out []Cause
	for _, s := range sources {
		if c := CauseOf(s); s.Key != (mesh.Key{}) && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}

// Line is one effect.
type Line struct {
	// Sign is +, - or ~.
	Sign Sign `json:"sign"`
	// Area that it speaks of.
	Area Area `json:"area"`
	// At are the places where it is so: "inbound http", "to backend.west:8080".
	// Empty: the whole proxy.
	At []string `json:"at,omitempty"`
	// Text for people: "allow spiffe://default.east.mesh.local/workload/web".
	Text string `json:"text"`
	// Who are the callers that a line about a permission means.
	Who string `json:"who,omitempty"`
	// Bearing on who may call: widens, narrows or changes.
	Bearing Bearing `json:"bearing"`
	// Causes are the policies behind it, highest priority last; none: what follows
	// from services and proxies themselves, or from the absence of a policy.
	Causes []Cause `json:"causes,omitempty"`
}

// String is the line with its places and causes, for golden files and logs.
func (l Line) String() string {
	var b strings.Builder
	b.WriteString(string(l.Sign) + " ")
	if len(l.At) > 0 {
		b.WriteString(strings.Join(l.At, ", ") + ": ")
	}
	b.WriteString(l.Text)
	if l.Bearing != Alters {
		b.WriteString(" [" + string(l.Bearing) + "]")
	}
	for i, c := range l.Causes {
		sep := ", "
		if i == 0 {
			sep = " ("
		}
		b.WriteString(sep + c.String())
	}
	if len(l.Causes) > 0 {
		b.WriteByte(')')
	}
	return b.String()
}

// Diff says what changes for the proxies of a class, or for proxies that come from
// one class to another. Nil stands for none: proxies that are not configured yet,
// or not any more. The result is empty when both must do the same.
func Diff(old, next *ir.Proxy) []Line {
	if old == nil && next == nil || old != nil && next != nil && old.Equal(next) {
		return nil
	}
	d := &differ{old: old, next: next}
	if old == nil {
		d.old = &ir.Proxy{Class: next.Class}
	}
	if next == nil {
		d.next = &ir.Proxy{Class: old.Class}
	}
	d.places()
	d.identity()
	d.inbounds()
	d.outbounds()
	d.destinations()
	d.ingress()
	d.trust()
	lines := fold(d.lines)
	if len(lines) == 0 {
		lines = []Line{d.other()}
	}
	return lines
}

// differ holds one comparison.
type differ struct {
	old, next *ir.Proxy
	lines     []Line
	// names of destinations for people, by KRI.
	names map[string]string
}

func (d *differ) add(l Line) {
	if l.Bearing == "" {
		l.Bearing = Alters
	}
	d.lines = append(d.lines, l)
}

func (d *differ) identity() {
	if d.old.HasIdentity == d.next.HasIdentity {
		return
	}
	if d.next.HasIdentity {
		d.add(Line{Sign: Added, Area: Identity, Text: "has an identity: its inbounds and outbounds work"})
		return
	}
	d.add(Line{Sign: Removed, Area: Identity, Text: "has no identity any more: it gets neither inbounds nor outbounds", Bearing: Narrows})
}

func (d *differ) trust() {
	before := byKey(d.old.Trust, func(t ir.TrustBundle) string { return t.TrustDomain })
	after := byKey(d.next.Trust, func(t ir.TrustBundle) string { return t.TrustDomain })
	for _, td := range keysOf(before, after) {
		switch was, is := before[td], after[td]; {
		case was == nil:
			d.add(Line{Sign: Added, Area: Trust, Text: "trusts certificates of " + td})
		case is == nil:
			d.add(Line{Sign: Removed, Area: Trust, Text: "trusts certificates of " + td})
		case was.PEM != is.PEM:
			d.add(Line{Sign: Changed, Area: Trust, Text: "trusts other authorities of " + td + ": " + authorities(was.PEM) + " before, " + authorities(is.PEM) + " after"})
		}
	}
}

// other is for differences that nothing else has said.
func (d *differ) other() Line {
	if withoutCauses(d.old) == withoutCauses(d.next) {
		return Line{Sign: Changed, Area: Other, Bearing: Alters, Text: "other lines of policies say the same; the effect stays"}
	}
	return Line{Sign: Changed, Area: Other, Bearing: Alters, Text: "its configuration differs in detail"}
}

// fold joins lines that say the same of several places, in the order of the first.
func fold(lines []Line) []Line {
	at := map[string]int{}
	var out []Line
	for _, l := range lines {
		whole := l
		whole.At = nil
		key := string(l.Area) + whole.String()
		i, ok := at[key]
		if !ok {
			at[key] = len(out)
			l.At = slices.Clone(l.At)
			out = append(out, l)
			continue
		}
		for _, place := range l.At {
			if !slices.Contains(out[i].At, place) {
				out[i].At = append(out[i].At, place)
			}
		}
	}
	return out
}

// byKey finds values by what names them.
func byKey[T any](list []T, key func(T) string) map[string]*T {
	out := make(map[string]*T, len(list))
	for i := range list {
		if k := key(list[i]); out[k] == nil {
			out[k] = &list[i]
		}
	}
	return out
}

// keysOf are the keys of both, sorted.
func keysOf[T any](a, b map[string]*T) []string {
	var out []string
	for k := range a {
		out = append(out, k)
	}
	for k := range b {
		if a[k] == nil {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}
