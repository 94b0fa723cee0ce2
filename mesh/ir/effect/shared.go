package effect

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// maxHosts bounds the hosts of a set that are said one by one.
const maxHosts = 10

// EndpointSets says what changes of the hosts behind a name. Nil is a set that is
// not there.
func EndpointSets(old, next *ir.EndpointSet) []Line {
	if old == nil && next == nil {
		return nil
	}
	var before, after []ir.Host
	name := ""
	if old != nil {
		before, name = old.Hosts, old.Name
	}
	if next != nil {
		after, name = next.Hosts, next.Name
	}
	at := []string{"to " + (&differ{}).place(name)}
	was, is := byKey(before, place), byKey(after, place)
	var out []Line
	gone, come, others := 0, 0, 0
	for _, k := range keysOf(was, is) {
		l := Line{Area: Endpoints, At: at, Bearing: Alters}
		switch a, b := was[k], is[k]; {
		case a == nil:
			come++
			l.Sign, l.Text = Added, "host "+k+hostText(b)
		case b == nil:
			gone++
			l.Sign, l.Text = Removed, "host "+k+hostText(a)
		case *a != *b:
			others++
			l.Sign, l.Text = Changed, "host "+k+hostText(a)+" →"+hostText(b)
		default:
			continue
		}
		out = append(out, l)
	}
	if len(out) > maxHosts {
		out = []Line{{Sign: Changed, Area: Endpoints, At: at, Bearing: Alters,
			Text: fmt.Sprintf("%d hosts come, %d go, %d change: %d → %d", come, gone, others, len(before), len(after))}}
	}
	return out
}

func place(h ir.Host) string {
	at := net.JoinHostPort(h.Address, number(h.Port))
	if h.Gateway != "" {
		at = "through the ingress of zone " + h.Zone
	}
	if h.Peer != "" {
		at += " of " + h.Peer
	}
	return at
}

func hostText(h *ir.Host) string {
	return fmt.Sprintf(" with priority %d, weight %d", h.Priority, h.Weight)
}

// Names says what changes of the names that applications resolve. Nil is an empty
// table.
func Names(old, next *ir.NameTable) []Line {
	list := func(t *ir.NameTable) []ir.Name {
		if t == nil {
			return nil
		}
		return t.Names
	}
	key := func(n ir.Name) string { return n.Name }
	before, after := byKey(list(old), key), byKey(list(next), key)
	var out []Line
	for _, name := range keysOf(before, after) {
		l := Line{Area: Name, Bearing: Alters}
		switch a, b := before[name], after[name]; {
		case a == nil:
			l.Sign, l.Text = Added, nameText(b)
		case b == nil:
			l.Sign, l.Text = Removed, nameText(a)
		case a.Service != b.Service || !slices.Equal(a.Addresses, b.Addresses):
			l.Sign, l.Text = Changed, nameText(a)+" → "+nameTarget(b)
		default:
			continue
		}
		out = append(out, l)
	}
	return out
}

func nameText(n *ir.Name) string { return n.Name + " is " + nameTarget(n) }

func nameTarget(n *ir.Name) string {
	return n.Service.RESTName() + " at " + strings.Join(n.Addresses, ", ")
}

// Problems are what next cannot honour and old did not complain of.
func Problems(old, next *ir.Proxy) []ir.Problem {
	if next == nil {
		return nil
	}
	var out []ir.Problem
	for _, p := range next.Problems {
		if old == nil || !slices.Contains(old.Problems, p) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b ir.Problem) int {
		return cmp.Or(cmp.Compare(a.Source.String(), b.Source.String()), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}
