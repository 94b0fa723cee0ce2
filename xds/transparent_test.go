package xds_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/tombolo-mesh/tombolo/agent/redirect"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/xds/delta"
)

// hosts are three network namespaces on one segment: two with a redirecting
// proxy each, and one outside of the mesh.
type hosts struct {
	*rig
	prefix string
}

func newHosts(t *testing.T) *hosts {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and nftables")
	}
	for _, tool := range []string{"ip", "setpriv"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	h := &hosts{rig: newRig(t, "default.east.mesh.local"), prefix: fmt.Sprintf("xdst%d", os.Getpid()%100_000)}
	hub := h.name("hub")
	for _, n := range []string{"hub", "a", "b", "c"} {
		h.command("ip", "netns", "add", h.name(n))
		t.Cleanup(func() { exec.Command("ip", "netns", "del", h.name(n)).Run() })
		h.command("ip", "-n", h.name(n), "link", "set", "lo", "up")
	}
	h.command("ip", "-n", hub, "link", "add", "br0", "type", "bridge")
	h.command("ip", "-n", hub, "link", "set", "br0", "up")
	for i, n := range []string{"a", "b", "c"} {
		h.command("ip", "-n", hub, "link", "add", "to"+n, "type", "veth", "peer", "name", "eth0", "netns", h.name(n))
		h.command("ip", "-n", hub, "link", "set", "to"+n, "up", "master", "br0")
		h.command("ip", "-n", h.name(n), "addr", "add", fmt.Sprintf("10.77.0.%d/24", i+1), "dev", "eth0")
		h.command("ip", "-n", h.name(n), "addr", "add", fmt.Sprintf("fd77::%d/64", i+1), "dev", "eth0", "nodad")
		h.command("ip", "-n", h.name(n), "link", "set", "eth0", "up")
		h.command("ip", "-n", h.name(n), "route", "add", "default", "dev", "eth0")
		h.command("ip", "-n", h.name(n), "-6", "route", "add", "default", "dev", "eth0")
	}
	return h
}

func (h *hosts) name(n string) string { return h.prefix + n }

func (h *hosts) command(args ...string) {
	h.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		h.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// redirect puts the rules into a host.
func (h *hosts) redirect(n string, families ...redirect.Family) {
	h.t.Helper()
	must(h.t, redirect.Install(redirect.Config{Families: families}.WithDefaults(), "/run/netns/"+h.name(n)))
}

// proxy starts an Envoy as the proxy's user in a host that redirects.
func (h *hosts) proxy(n, spiffeID string, p *ir.Proxy, own *ir.Instance, endpoints ...*ir.EndpointSet) *envoyProcess {
	h.t.Helper()
	by := []string{"ip", "netns", "exec", h.name(n), "setpriv", "--reuid", "1337", "--regid", "1337", "--clear-groups", "--pdeathsig", "KILL", "--"}
	return h.startBy(by, n, spiffeID, p, own, endpoints...)
}

// in runs f with the host's network; what it opens stays there. The thread goes
// on: it may be the one whose end ends an Envoy.
func (h *hosts) in(n string, f func() error) error {
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		return err
	}
	defer before.Close()
	ns, err := netns.GetFromName(h.name(n))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := netns.Set(ns); err != nil {
		return err
	}
	failure := f()
	if err := netns.Set(before); err != nil {
		return err // the thread stays locked, and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return failure
}

func (h *hosts) listenIn(n, address string) net.Listener {
	h.t.Helper()
	var l net.Listener
	must(h.t, h.in(n, func() (err error) { l, err = net.Listen("tcp", address); return err }))
	h.t.Cleanup(func() { l.Close() })
	return l
}

// serve answers HTTP requests with a name, the caller's certificate and address,
// and the Host.
func (h *hosts) serve(n, name, address string) {
	h.t.Helper()
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s from=%s host=%s %s", name, from, r.Host, r.Header.Get("X-Forwarded-Client-Cert"))
	})}
	h.t.Cleanup(func() { s.Close() })
	go s.Serve(h.listenIn(n, address))
}

func (h *hosts) echo(n, address string) {
	l := h.listenIn(n, address)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
}

func (h *hosts) dial(n, address string) (net.Conn, error) {
	var c net.Conn
	err := h.in(n, func() (err error) {
		c, err = (&net.Dialer{Timeout: time.Minute}).Dial("tcp", address)
		return err
	})
	return c, err
}

// get calls an address from a host: the answer, or why there is none.
func (h *hosts) get(n, address string) string {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return h.dial(n, address) },
	}}
	resp, err := client.Get("http://any.example:1234/")
	if err != nil {
		return "error: " + err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, body)
}

func (h *hosts) want(n, address string, parts ...string) {
	h.t.Helper()
	var got string
	ok := func() bool {
		got = h.get(n, address)
		for _, p := range parts {
			if !strings.Contains(got, p) {
				return false
			}
		}
		return true
	}
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			h.t.Errorf("%s calls %s: %q, want %q", n, address, got, parts)
			return
		}
	}
}

func (h *hosts) refused(n, address string) {
	h.t.Helper()
	if got := h.get(n, address); !strings.HasPrefix(got, "error") {
		h.t.Errorf("%s calls %s: %q, want it refused", n, address, got)
	}
}

// pair is a proxy in a that calls one in b, and itself.
type pair struct {
	*hosts
	a, b            *envoyProcess
	webIR, backIR   *ir.Proxy
	webSets         []*ir.EndpointSet
	webOwn, backOwn *ir.Instance
}

const (
	serverID = "spiffe://default.east.mesh.local/workload/server"
	ownName  = "kri_msvc_default_east__web_80"
	own6Name = "kri_msvc_default_east__web6_80"
	srvName  = "kri_msvc_default_east__server_80"
	rawName  = "kri_msvc_default_east__server_9090"
	noneName = "kri_msvc_default_east__unproved_80"
)

func newPair(t *testing.T, transparent *ir.Transparent) *pair {
	t.Helper()
	p := &pair{hosts: newHosts(t)}
	p.serve("a", "web", ":8080")
	p.serve("b", "server", ":8080")
	p.serve("b", "undeclared", ":7070")
	p.echo("b", ":9090")
	p.serve("c", "plain", ":80")
	for _, n := range []string{"a", "b"} {
		p.redirect(n)
	}
	inbound := func(name string, port uint32, protocol ir.Protocol) ir.Inbound {
		return ir.Inbound{ClassInbound: ir.ClassInbound{Name: name, Port: port, ServicePort: port, Protocol: protocol},
			Permission: ir.Permission{Allow: []ir.PermissionMatch{allow(webID)}}, Timeouts: timeouts()}
	}
	p.backIR = &ir.Proxy{Trust: p.trust, Zone: "east", HasIdentity: true, Passthrough: true,
		Class:    &ir.Class{Mesh: "default", ID: "b", Transparent: transparent},
		Inbounds: []ir.Inbound{inbound("http", 8080, ir.HTTP), inbound("raw", 9090, ir.TCP)}}
	p.backOwn = &ir.Instance{Inbounds: []ir.InstanceInbound{{Address: "10.77.0.2", ServiceAddress: "10.77.0.2"}, {Address: "10.77.0.2", ServiceAddress: "10.77.0.2"}}}
	p.webIR = &ir.Proxy{Trust: p.trust, Zone: "east", HasIdentity: true, Passthrough: true,
		Class:    &ir.Class{Mesh: "default", ID: "a", Transparent: transparent},
		Inbounds: []ir.Inbound{inbound("http", 8080, ir.HTTP)},
		Outbounds: []ir.Outbound{
			calls("10.96.0.1", 80, srvName), calls("fd96::1", 80, srvName), calls("10.77.0.2", 8080, srvName),
			connects("10.96.0.1", 9090, rawName), connects("fd96::1", 9090, rawName),
			calls("10.96.0.2", 80, ownName), calls("fd96::2", 80, own6Name),
			calls("10.96.0.3", 80, noneName),
			// What another replica of a headless service has as its own address.
			calls("10.77.0.1", 7777, srvName), calls("10.77.0.1", 8080, ownName),
		},
		Destinations: []ir.Destination{
			to(srvName, ir.HTTP, "server", serverID), to(rawName, ir.TCP, "server", serverID),
			to(ownName, ir.HTTP, "web", webID), to(own6Name, ir.HTTP, "web", webID),
			{Name: noneName, Protocol: ir.HTTP, Timeouts: timeouts()},
		},
	}
	p.webOwn = &ir.Instance{Inbounds: []ir.InstanceInbound{{Address: "10.77.0.1", ServiceAddress: "10.77.0.1"}}}
	host := func(address string, port uint32, peer string) []ir.Host {
		return []ir.Host{{Address: address, Port: port, Zone: "east", Weight: 1, Peer: peer}}
	}
	p.webSets = []*ir.EndpointSet{
		{Name: srvName, Hosts: host("10.77.0.2", 8080, "server.east")}, {Name: rawName, Hosts: host("fd77::2", 9090, "server.east")},
		{Name: ownName, Hosts: host("10.77.0.1", 8080, "web.east")}, {Name: own6Name, Hosts: host("fd77::1", 8080, "web.east")},
		{Name: noneName, Hosts: host("10.77.0.3", 80, "unproved.east")},
	}
	p.b = p.proxy("b", serverID, p.backIR, p.backOwn)
	p.a = p.proxy("a", webID, p.webIR, p.webOwn, p.webSets...)
	return p
}

func calls(address string, port uint32, name string) ir.Outbound {
	return ir.Outbound{Name: name, Address: address, Port: port, Redirected: true, Protocol: ir.HTTP, Timeouts: timeouts(),
		Routes: []ir.Route{{Name: "default", Backends: []ir.WeightedBackend{{Destination: name, Weight: 1}}, Timeouts: timeouts()}}}
}

func connects(address string, port uint32, name string) ir.Outbound {
	return ir.Outbound{Name: name, Address: address, Port: port, Redirected: true, Protocol: ir.TCP, Timeouts: timeouts(),
		Backends: []ir.WeightedBackend{{Destination: name, Weight: 1}}}
}

func to(name string, protocol ir.Protocol, service, id string) ir.Destination {
	return ir.Destination{Name: name, Protocol: protocol, Timeouts: timeouts(),
		Peers: []ir.Peer{{Name: service + ".east", SNI: mesh.SNI(80, service, "east", "default"), Identities: []string{id}}}}
}

// line exchanges a line over an open connection.
func line(t *testing.T, c net.Conn, text string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintln(c, text)
	if got, err := bufio.NewReader(c).ReadString('\n'); err != nil || got != text+"\n" {
		t.Fatalf("%s: %q, %v", text, got, err)
	}
}

// TestTransparent: redirected calls on real Envoys in namespaces of their own.
func TestTransparent(t *testing.T) {
	p := newPair(t, &ir.Transparent{InboundPort: 15006, OutboundPort: 15001})
	proved := "URI=" + webID
	p.want("a", "10.96.0.1:80", "200 server", proved, "host=any.example:1234")
	p.want("a", "[fd96::1]:80", "200 server", proved)
	p.want("a", "10.77.0.2:8080", "200 server", proved)
	for _, address := range []string{"10.96.0.1:9090", "[fd96::1]:9090"} {
		c, err := p.dial("a", address)
		must(t, err)
		line(t, c, "over "+address)
		c.Close()
	}
	t.Run("what is none of the mesh passes through", func(t *testing.T) {
		p.want("a", "10.77.0.3:80", "200 plain from=10.77.0.1")
		p.want("a", "[fd77::3]:80", "200 plain from=fd77::1")
	})
	t.Run("the own service, by way of the own proxy", func(t *testing.T) {
		p.want("a", "10.96.0.2:80", "200 web", proved, "from=10.77.0.1")
		p.want("a", "[fd96::2]:80", "200 web", proved)
		p.want("a", "10.77.0.1:8080", "200 web from=10.77.0.1 host=any.example:1234 ") // itself, directly
	})
	t.Run("nothing but mutual TLS comes in", func(t *testing.T) {
		for _, address := range []string{"10.77.0.2:8080", "[fd77::2]:8080", "10.77.0.2:7070", "[fd77::2]:7070", "10.77.0.2:15001", "10.77.0.2:15006", "[fd77::2]:15001"} {
			p.refused("c", address)
		}
	})
	t.Run("an unproved service is refused, not called in plain text", func(t *testing.T) {
		p.want("a", "10.96.0.3:80", "503")
	})
	t.Run("no stranger uses the outbounds", func(t *testing.T) {
		p.refused("c", "10.77.0.1:7777")
		p.refused("c", "10.77.0.1:8080")
	})
	t.Run("the ports of the redirect do not call themselves", func(t *testing.T) {
		for _, address := range []string{"127.0.0.1:15001", "10.77.0.1:15001", "[::1]:15001", "127.0.0.1:15006"} {
			p.refused("a", address)
		}
	})
	t.Run("a service that comes or goes changes one listener", func(t *testing.T) {
		c, err := p.dial("a", "10.96.0.1:9090")
		must(t, err)
		defer c.Close()
		through, err := p.dial("a", "10.77.0.3:80")
		must(t, err)
		defer through.Close()
		line(t, c, "before")
		stats := func() string {
			var out []string
			for _, s := range []string{"added", "removed", "modified", "in_place_updated"} {
				out = append(out, s+"="+p.a.stat("listener_manager.listener_"+s))
			}
			return strings.Join(out, " ")
		}
		var added int
		fmt.Sscan(p.a.stat("listener_manager.listener_added"), &added)
		was := p.webIR.Outbounds
		p.webIR.Outbounds = append(append([]ir.Outbound{}, was...), calls("10.96.0.9", 81, srvName))
		p.a.update(p.webIR, p.webSets...)
		p.want("a", "10.96.0.9:81", "200 server", proved)
		if got, want := stats(), fmt.Sprintf("added=%d removed=0 modified=0 in_place_updated=0", added+1); got != want {
			t.Errorf("a service more: %s, want %s", got, want)
		}
		line(t, c, "one more")
		p.webIR.Outbounds = was
		p.a.update(p.webIR, p.webSets...)
		p.eventually("the listener to drain", func() bool { return p.a.stat("listener_manager.total_listeners_draining") == "0" })
		if got, want := stats(), fmt.Sprintf("added=%d removed=1 modified=0 in_place_updated=0", added+1); got != want {
			t.Errorf("a service less: %s, want %s", got, want)
		}
		line(t, c, "one less")
		fmt.Fprintf(through, "GET / HTTP/1.0\r\n\r\n")
		if text, err := io.ReadAll(through); err != nil || !strings.Contains(string(text), "plain") {
			t.Errorf("the connection that passes through: %q, %v", text, err)
		}
	})
	t.Run("an inbound that comes costs the others nothing", func(t *testing.T) {
		c, err := p.dial("a", "10.96.0.1:9090")
		must(t, err)
		defer c.Close()
		line(t, c, "before")
		more := p.backIR.Inbounds[0]
		more.Name, more.Port, more.ServicePort = "late", 7070, 7070
		p.backIR.Inbounds = append(p.backIR.Inbounds, more)
		p.backOwn.Inbounds = append(p.backOwn.Inbounds, p.backOwn.Inbounds[0])
		p.assign("b", p.backIR, p.backOwn)
		p.b.update(p.backIR)
		p.webSets[0].Hosts[0].Port = 7070
		p.a.update(p.webIR, p.webSets...)
		p.want("a", "10.96.0.1:80", "200 undeclared", proved)
		p.eventually("chains to drain", func() bool { return p.b.stat("listener_manager.total_filter_chains_draining") == "0" })
		line(t, c, "after")
	})
	t.Run("a tightened permission cuts connections of its inbound alone", func(t *testing.T) {
		c, err := p.dial("a", "[fd96::1]:9090")
		must(t, err)
		defer c.Close()
		line(t, c, "before")
		kept := p.b.stat("http.self_inbound_dp_late.downstream_cx_active")
		p.backIR.Inbounds[1].Permission = ir.Permission{}
		p.backIR.Inbounds[1].Generation++
		p.b.update(p.backIR)
		c.SetDeadline(time.Now().Add(60 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the open connection: %v, want it cut", err)
		}
		if got := p.b.stat("http.self_inbound_dp_late.downstream_cx_active"); got != kept || got == "0" {
			t.Errorf("connections of another inbound went from %s to %s", kept, got)
		}
	})
}

// TestTransparentIPv4: where the other family is not redirected, it is left alone, and
// nothing needs it to exist.
func TestTransparentIPv4(t *testing.T) {
	h := newHosts(t)
	h.serve("b", "server", "0.0.0.0:8080")
	h.serve("c", "plain", ":80")
	h.redirect("a", redirect.IPv4)
	h.redirect("b", redirect.IPv4)
	h.command("ip", "netns", "exec", h.name("b"), "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
	only := &ir.Transparent{InboundPort: 15006, OutboundPort: 15001, IPv4Only: true}
	h.proxy("b", serverID, &ir.Proxy{Trust: h.trust, Zone: "east", HasIdentity: true, Class: &ir.Class{Mesh: "default", ID: "b", Transparent: only},
		Inbounds: []ir.Inbound{{ClassInbound: ir.ClassInbound{Name: "http", Port: 8080, ServicePort: 8080, Protocol: ir.HTTP},
			Permission: ir.Permission{Allow: []ir.PermissionMatch{allow(webID)}}, Timeouts: timeouts()}}},
		&ir.Instance{Inbounds: []ir.InstanceInbound{{Address: "10.77.0.2", ServiceAddress: "10.77.0.2"}}})
	h.proxy("a", webID, &ir.Proxy{Trust: h.trust, Zone: "east", HasIdentity: true, Passthrough: true, Class: &ir.Class{Mesh: "default", ID: "a", Transparent: only},
		Outbounds:    []ir.Outbound{calls("10.96.0.1", 80, srvName)},
		Destinations: []ir.Destination{to(srvName, ir.HTTP, "server", serverID)}}, &ir.Instance{},
		&ir.EndpointSet{Name: srvName, Hosts: []ir.Host{{Address: "10.77.0.2", Port: 8080, Zone: "east", Weight: 1, Peer: "server.east"}}})
	h.want("a", "10.96.0.1:80", "200 server", "URI="+webID)
	h.want("a", "10.77.0.3:80", "200 plain")
	h.want("a", "[fd77::3]:80", "200 plain")
	h.refused("c", "10.77.0.2:8080")
}

// What would be called past the mesh in plain text, since Envoy has no listener for it,
// is closed by what stands in for the refused one.
func TestARefusedListenerIsClosed(t *testing.T) {
	p := newPair(t, &ir.Transparent{InboundPort: 15006, OutboundPort: 15001})
	const address = "10.77.0.3"
	p.want("a", address+":80", "200 plain")
	p.webIR.Outbounds = append(p.webIR.Outbounds, calls(address, 80, srvName))
	push := func(change func(*delta.Resource) *delta.Resource) {
		resources, err := xds.Build(p.webIR)
		must(t, err)
		for _, set := range p.webSets {
			r, err := xds.BuildEndpoints(set)
			must(t, err)
			resources = append(resources, r)
		}
		b, err := xds.BuildBundles(p.trust)
		must(t, err)
		for i, r := range resources {
			if r.TypeURL == xds.ListenerType && r.Name == xds.OutboundListenerName(address, 80) {
				resources[i] = change(r)
			} else if closed := xds.Closed(r); closed != nil && r.TypeURL != xds.ListenerType {
				t.Errorf("%s has a stand-in", r.Name)
			}
		}
		p.push("a", append(resources, b))
	}
	var bad *delta.Resource
	push(func(r *delta.Resource) *delta.Resource {
		var l listenerv3.Listener
		must(t, proto.Unmarshal(r.Body, &l))
		l.FilterChains[0].Filters = append([]*listenerv3.Filter{{Name: "unknown", ConfigType: &listenerv3.Filter_TypedConfig{
			TypedConfig: &anypb.Any{TypeUrl: xds.RouteType}}}}, l.FilterChains[0].Filters...)
		body, err := proto.Marshal(&l)
		must(t, err)
		bad = &delta.Resource{TypeURL: r.TypeURL, Name: r.Name, Version: "bad", Body: body}
		return bad
	})
	p.eventually("envoy refuses it", func() bool { return len(p.ads.Rejections()) == 1 })
	p.want("a", address+":80", "200 plain")
	push(func(*delta.Resource) *delta.Resource { return xds.Closed(bad) })
	p.eventually("envoy takes what stands in", func() bool { return p.ads.InSync("a") })
	p.refused("a", address+":80")
	p.want("a", "10.96.0.1:80", "200 server")
	push(func(r *delta.Resource) *delta.Resource { return r })
	p.want("a", address+":80", "200 server", "URI="+webID)
}
