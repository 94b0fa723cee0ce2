package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
)

// Bounds of an answer about a policy.
const (
	// MaxReachedNames are the proxies of a class that are named.
	MaxReachedNames = 10
	// maxGifts are the lines of a class.
	maxGifts = 100
)

// Reach is what a policy does everywhere.
type Reach struct {
	// Kind, Mesh and Name of the policy; a zone's own is "<name>.<zone>".
	Kind mesh.KindName `json:"kind"`
	Mesh string        `json:"mesh,omitempty"`
	Name string        `json:"name"`
	// Revision of it.
	Revision mesh.Revision `json:"revision"`
	// Proxies that it gives something, in the zones that answered.
	Proxies int `json:"proxies"`
	// Zones, sorted by name.
	Zones []ZoneReach `json:"zones"`
}

// ZoneReach is what a policy does in one zone.
type ZoneReach struct {
	// Zone, and the revision that it is at.
	Zone string        `json:"zone"`
	At   mesh.Revision `json:"at,omitempty"`
	// Selected are the connected proxies that it selects, Proxies those to which it
	// gives something.
	Selected int `json:"selected"`
	Proxies  int `json:"proxies"`
	// Classes of them, the largest first.
	Classes []ClassReach `json:"classes,omitempty"`
	// Nobody says why it reaches nobody.
	Nobody string `json:"nobody,omitempty"`
	// Unanswered says why the zone did not answer.
	Unanswered string `json:"unanswered,omitempty"`
	// Problems of it in the zone.
	Problems []string `json:"problems,omitempty"`
}

// ClassReach is what a policy gives proxies that are configured alike.
type ClassReach struct {
	// Class and Workload of them.
	Class    string `json:"class"`
	Workload string `json:"workload,omitempty"`
	// Proxies that are connected, and the names of some.
	Proxies int      `json:"proxies"`
	Names   []string `json:"names,omitempty"`
	// Gave is what they have of it.
	Gave []Gift `json:"gave"`
}

// Gift is one thing that a policy gave.
type Gift struct {
	// At is where: "inbound http", "to backend.west:8080".
	At string `json:"at"`
	// Text for people: "allow spiffe://default.east.mesh.local/workload/web".
	Text string `json:"text"`
	// Path inside the policy's spec.
	Path string `json:"path,omitempty"`
}

// Asked is the body of what a zone is asked about a policy.
type Asked struct {
	// Policy to tell of.
	Policy mesh.Key `json:"policy"`
}

// Gifts are what a policy gave to a compiled proxy, in the order of its places;
// none when nothing in it comes from the policy.
func Gifts(p *ir.Proxy, policy mesh.Key) []Gift {
	g := &gifts{policy: policy}
	for i := range p.Inbounds {
		g.inbound(&p.Inbounds[i])
	}
	for i := range p.Outbounds {
		g.outbound(&p.Outbounds[i])
	}
	for i := range p.Destinations {
		d := &p.Destinations[i]
		g.confs("to "+effect.Place(d.Name), d.Confs)
	}
	if n := len(g.list); n > maxGifts {
		g.list = append(g.list[:maxGifts], Gift{At: "…", Text: fmt.Sprintf("and %d more", n-maxGifts)})
	}
	return g.list
}

type gifts struct {
	policy mesh.Key
	list   []Gift
}

func (g *gifts) add(at, text string, s ir.Source) {
	if gift := (Gift{At: at, Text: text, Path: s.Path}); s.Key == g.policy && !slices.Contains(g.list, gift) {
		g.list = append(g.list, gift)
	}
}

func (g *gifts) inbound(in *ir.Inbound) {
	at := "inbound " + in.Name
	for _, r := range effect.Rules(in.Permission) {
		g.add(at, r.String(), r.Source)
	}
	g.confs(at, in.Confs)
	for _, m := range in.Rules {
		g.add(at+" for "+effect.Who(m.Match), confText(m.Kind, m.Conf), m.Source)
	}
}

func (g *gifts) outbound(o *ir.Outbound) {
	at := "to " + effect.Place(o.Name)
	g.add(at, "connections go to "+sharesText(o.Backends), o.Source)
	g.confs(at, o.Confs)
	for i := range o.Routes {
		r := &o.Routes[i]
		g.add(at, effect.Request(r.Match)+": "+routeText(r), r.Source)
		where := at
		if r.Source.Key != (mesh.Key{}) {
			where += " " + effect.Request(r.Match)
		}
		g.confs(where, r.Confs)
	}
}

func (g *gifts) confs(at string, confs ir.Confs) {
	for _, c := range confs {
		for i, s := range c.Sources {
			text := confText(c.Kind, c.Conf)
			if i < len(c.Sources)-1 || i > 0 {
				text += ", with " + plural(len(c.Sources)-1, "other line")
			}
			g.add(at, text, s)
		}
	}
}

func confText(kind mesh.KindName, conf any) string {
	return string(kind) + " " + strings.Join(effect.Fields(conf), ", ")
}

func routeText(r *ir.Route) string {
	switch {
	case r.Status != 0:
		return fmt.Sprintf("answers %d", r.Status)
	case len(r.Backends) > 0:
		return "goes to " + sharesText(r.Backends)
	case slices.ContainsFunc(r.Filters, func(f mesh.HTTPFilter) bool { return f.RequestRedirect != nil }):
		return "is redirected"
	}
	return "goes to nowhere"
}

func sharesText(list []ir.WeightedBackend) string {
	var sum uint64
	for _, b := range list {
		sum += uint64(b.Weight)
	}
	var out []string
	for _, b := range list {
		text := effect.Place(b.Destination)
		if len(list) > 1 {
			text = Percent(100*float64(b.Weight)/float64(max(sum, 1))) + " " + text
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// SortClasses orders classes, the largest first.
func SortClasses(list []ClassReach) {
	slices.SortFunc(list, func(a, b ClassReach) int {
		return cmp.Or(cmp.Compare(b.Proxies, a.Proxies), cmp.Compare(a.Class, b.Class))
	})
}
