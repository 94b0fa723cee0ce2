package agent

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/internal/ports"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

// lookup asks the agent's DNS server.
func lookup(t *testing.T, port int, network, name string) string {
	t.Helper()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", port))
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	ips, err := r.LookupHost(ctx, name)
	if err != nil {
		return "error: " + err.Error()
	}
	return strings.Join(ips, " ")
}

// The zone tells the names, the agent answers them, and goes on with the zone away.
func TestNamesOfTheMesh(t *testing.T) {
	z := newFakeZone(t)
	startApp(t, z, hello)
	z.start()
	cfg := testConfig(t, z)
	cfg.ReadinessAddress = fmt.Sprintf("127.0.0.1:%d", ports.Free(t))
	cfg.DNS, cfg.DNSPort, cfg.DNSUpstreams = true, ports.Free(t), []string{"127.0.0.1:1"}
	r := startConfigured(t, z, cfg)
	eventually(t, "Envoy takes traffic", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", z.inbound))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	eventually(t, "waiting for a proxy without names says so", func() bool {
		err := waitShortly(t, cfg)
		if err == nil {
			t.Fatal("ready without names")
		}
		return strings.Contains(err.Error(), "names of the mesh")
	})
	if !get(z, func() bool { return z.registers[0].Names }) {
		t.Fatal("the agent did not ask for names")
	}
	send := func(n *agentv1.Names) {
		t.Helper()
		if err := get(z, func() *fakeStream { return z.agent }).send(&agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Names{Names: n}}); err != nil {
			t.Fatal(err)
		}
	}
	send(&agentv1.Names{Reset_: true, Set: []*agentv1.Name{{Name: "web.svc.mesh.local", Addresses: []string{"241.0.0.1"}, TtlSeconds: 30}}})
	ready, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := Wait(ready, cfg.ReadinessAddress); err != nil {
		t.Fatal(err)
	}
	send(&agentv1.Names{Set: []*agentv1.Name{{Name: "api.svc.mesh.local", Addresses: []string{"241.0.0.2"}, TtlSeconds: 30}}})
	eventually(t, "a new name is answered", func() bool { return lookup(t, cfg.DNSPort, "udp", "api.svc.mesh.local.") == "241.0.0.2" })
	z.stop()
	eventually(t, "the zone is away", func() bool { return r.log.count("zone is away") > 0 })
	for _, network := range []string{"udp", "tcp"} {
		if got := lookup(t, cfg.DNSPort, network, "web.svc.mesh.local."); got != "241.0.0.1" {
			t.Errorf("with the zone away, by %s: %s", network, got)
		}
	}
	// It comes back with other names.
	z.start()
	eventually(t, "registered again", func() bool { return get(z, func() bool { return len(z.registers) > 1 }) })
	eventually(t, "the new table counts", func() bool {
		_ = get(z, func() *fakeStream { return z.agent }).send(&agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Names{
			Names: &agentv1.Names{Reset_: true, Set: []*agentv1.Name{{Name: "web.svc.mesh.local", Addresses: []string{"241.0.0.3"}, TtlSeconds: 30}}}}})
		return lookup(t, cfg.DNSPort, "udp", "web.svc.mesh.local.") == "241.0.0.3"
	})
	if got := lookup(t, cfg.DNSPort, "udp", "api.svc.mesh.local."); !strings.HasPrefix(got, "error") {
		t.Errorf("a name that is gone is answered: %s", got)
	}
}

func TestDNSUpstreams(t *testing.T) {
	cfg := Config{DNSUpstreams: []string{"10.0.0.1", "[fd00::1]:5353", "fd00::2"}}
	got, err := cfg.nameservers()
	if err != nil || fmt.Sprint(got) != "[10.0.0.1:53 [fd00::1]:5353 [fd00::2]:53]" {
		t.Error(got, err)
	}
	cfg.DNSUpstreams = []string{"dns.example.com"}
	if _, err := cfg.nameservers(); err == nil {
		t.Error("a name of a nameserver is taken")
	}
}
