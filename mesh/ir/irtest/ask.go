package irtest

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// Compiler is what is tested: of package ir or of package ingress.
type Compiler struct {
	// Proxy compiles a class.
	Proxy func(ir.Reader, *ir.Class) *ir.Proxy
	// Endpoints compiles an endpoint set.
	Endpoints func(ir.Reader, ir.EndpointRef) *ir.EndpointSet
}

// Answer compiles what the lines of a case ask for and says it as text. A line
// is a command and its arguments; lines that are empty or begin with # are skipped.
//
//	proxy MESH NAME      what the class of that Dataplane must do
//	endpoints MESH NAME  every endpoint set that it needs
//	class MESH NAME      the class and the instance
//	reads MESH NAME      what the compile reads
//	counter NAME N       sets a counter first
//	addresses KIND MESH NAME.ZONE IP,IP  gives a service addresses first; a
//	                     service of no zone is NAME alone
func Answer(w *World, compile Compiler, lines string) (string, error) {
	var out strings.Builder
	for _, line := range strings.Split(lines, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if f[0] == "addresses" {
			if err := setAddresses(w, f[1:]); err != nil {
				return "", fmt.Errorf("%q: %w", line, err)
			}
			continue
		}
		if len(f) != 3 {
			return "", fmt.Errorf("%q: must be a command and two arguments", line)
		}
		if f[0] == "counter" {
			var n uint64
			if _, err := fmt.Sscan(f[2], &n); err != nil {
				return "", fmt.Errorf("%q: %w", line, err)
			}
			w.SetCounter(f[1], n)
			continue
		}
		text, err := answer(w, compile, f[0], f[1], f[2])
		if err != nil {
			return "", fmt.Errorf("%q: %w", line, err)
		}
		fmt.Fprintf(&out, "> %s\n%s", strings.Join(f, " "), text)
	}
	return out.String(), nil
}

func setAddresses(w *World, f []string) error {
	if len(f) != 4 {
		return fmt.Errorf("must be addresses KIND MESH NAME.ZONE IP,IP")
	}
	key := mesh.Key{Kind: mesh.KindName(f[0]), Mesh: f[1]}
	key.Name = f[2]
	if i := strings.LastIndexByte(f[2], '.'); i >= 0 {
		key.Name, key.Zone = f[2][:i], f[2][i+1:]
	}
	if _, ok := w.objects[key]; !ok {
		return fmt.Errorf("no %s", key)
	}
	w.SetAddresses(key, strings.Split(f[3], ",")...)
	return nil
}

func answer(w *World, compile Compiler, what, meshName, name string) (string, error) {
	class, instance, err := w.Class(meshName, name)
	if err != nil {
		return "", err
	}
	w.Reads()
	switch what {
	case "proxy":
		return compile.Proxy(w, class).Text(), nil
	case "endpoints":
		var out strings.Builder
		for _, ref := range ir.EndpointRefs(compile.Proxy(w, class)) {
			out.WriteString(compile.Endpoints(w, ref).Text())
		}
		return out.String(), nil
	case "class":
		return classText(class, instance), nil
	case "reads":
		compile.Proxy(w, class)
		return strings.Join(w.Reads(), "\n") + "\n", nil
	default:
		return "", fmt.Errorf("unknown command %q", what)
	}
}

func classText(c *ir.Class, i *ir.Instance) string {
	var out strings.Builder
	fmt.Fprintf(&out, "class %s mesh=%s name=%q role=%d labels=%v\n", c.ID, c.Mesh, c.Name, c.Role, c.Labels)
	for n, in := range c.Inbounds {
		at := i.Inbounds[n]
		fmt.Fprintf(&out, "  inbound %s %s %s:%d to %s:%d\n", in.Name, in.Protocol, at.Address, in.Port, at.ServiceAddress, in.ServicePort)
	}
	for _, o := range c.Outbounds {
		fmt.Fprintf(&out, "  outbound %s:%d to %s\n", o.Address, o.Port, backendText(o.BackendRef))
	}
	if t := c.Transparent; t != nil {
		fmt.Fprintf(&out, "  redirected %d %d IPv4Only=%t", t.InboundPort, t.OutboundPort, t.IPv4Only)
		if t.Reachable != nil {
			fmt.Fprintf(&out, " reachable=%v", *t.Reachable)
		}
		out.WriteByte('\n')
	}
	for n, l := range c.Listeners {
		fmt.Fprintf(&out, "  listener %s %s %s:%d\n", l.Name, l.Type, i.Listeners[n], l.Port)
	}
	for _, u := range c.Unsupported {
		fmt.Fprintf(&out, "  unsupported %s\n", u)
	}
	return out.String()
}

func backendText(r mesh.BackendRef) string {
	return fmt.Sprintf("%s name=%q labels=%v port=%d section=%q", r.Kind, r.Name, r.Labels, r.Port, r.SectionName)
}

// Case answers a golden case: all.yaml is in the world of every zone and
// ZONE.yaml in that of one; what is asked of a zone is in ZONE.ask, and the
// answer is named want.ZONE.
func Case(t testing.TB, a *txtar.Archive, compile Compiler) map[string]string {
	t.Helper()
	files := map[string][]byte{}
	for _, f := range a.Files {
		files[f.Name] = f.Data
	}
	got := map[string]string{}
	for name, lines := range files {
		zone, ok := strings.CutSuffix(name, ".ask")
		if !ok {
			continue
		}
		w, err := Parse(zone, files["all.yaml"], files[zone+".yaml"])
		if err != nil {
			t.Fatalf("zone %s: %v", zone, err)
		}
		text, err := Answer(w, compile, string(lines))
		if err != nil {
			t.Fatalf("zone %s: %v", zone, err)
		}
		got["want."+zone] = text
	}
	return got
}
