package xds_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/identity/ca"
	"github.com/tombolo-mesh/tombolo/internal/ports"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/xds/delta"
)

const (
	webID     = "spiffe://default.east.mesh.local/workload/web"
	backendID = "spiffe://default.west.mesh.local/workload/backend"
	ingressID = "spiffe://default.west.mesh.local/workload/ingress"
	httpName  = "kri_msvc_default_west__backend_8080"
	tcpName   = "kri_msvc_default_west__backend_9090"
)

// zones is the demo's path on loopback: web (east) → ingress (west) → backend
// (west), HTTP and TCP, with an application behind backend.
type zones struct {
	*rig
	app                      *httptest.Server
	tcpApp                   net.Listener
	webHTTP, webTCP          uint32
	inHTTP, inTCP, ingress   uint32
	web, backend, gateway    *envoyProcess
	webIR, backendIR, ingwIR *ir.Proxy
	webSets, ingwSets        []*ir.EndpointSet
	served                   atomic.Int64
	accepted                 atomic.Int64
}

func newZones(t *testing.T) *zones {
	z := &zones{rig: newRig(t, "default.east.mesh.local", "default.west.mesh.local")}
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		z.served.Add(1)
		if r.URL.Path == "/slow" {
			select {
			case <-r.Context().Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
		if r.Header.Get("Upgrade") == "websocket" {
			echoUpgraded(w)
			return
		}
		fmt.Fprintf(w, "%s %s %s", r.URL.Path, r.Header.Get("X-Forwarded-Client-Cert"), r.Header.Get("X-Route"))
	})
	z.app = &httptest.Server{Listener: ports.Listen(t), Config: &http.Server{Handler: app}}
	z.app.Start()
	t.Cleanup(z.app.Close)
	z.tcpApp = echoServer(t, &z.accepted)
	z.webHTTP, z.webTCP, z.inHTTP, z.inTCP, z.ingress = freePort(t), freePort(t), freePort(t), freePort(t), freePort(t)

	allowWeb := ir.Permission{Allow: []ir.PermissionMatch{allow(webID)}}
	z.backendIR = &ir.Proxy{
		Trust: z.trust,
		Class: &ir.Class{Mesh: "default", ID: "backend"}, Zone: "west", HasIdentity: true,
		Inbounds: []ir.Inbound{
			{ClassInbound: ir.ClassInbound{Name: "http", Port: z.inHTTP, ServicePort: portOf(z.app.Listener), Protocol: ir.HTTP}, Permission: allowWeb, Timeouts: timeouts()},
			{ClassInbound: ir.ClassInbound{Name: "tcp", Port: z.inTCP, ServicePort: portOf(z.tcpApp), Protocol: ir.TCP}, Permission: allowWeb, Timeouts: timeouts()},
		},
	}
	sniHTTP, sniTCP := mesh.SNI(8080, "backend", "west", "default"), mesh.SNI(9090, "backend", "west", "default")
	z.ingwIR = &ir.Proxy{
		Class: &ir.Class{Mesh: "default", ID: "ingress", Role: ir.Ingress, Listeners: []mesh.Listener{{Type: "ZoneIngress", Port: z.ingress}}},
		Zone:  "west", HasIdentity: true,
		Exports: []ir.Export{{SNI: sniHTTP, Port: 8080}},
	}
	z.ingwSets = []*ir.EndpointSet{
		{Name: sniHTTP, Hosts: []ir.Host{{Address: "127.0.0.1", Port: z.inHTTP, Zone: "west", Weight: 1}}},
		{Name: sniTCP, Hosts: []ir.Host{{Address: "127.0.0.1", Port: z.inTCP, Zone: "west", Weight: 1}}},
	}
	peer := func(sni string) []ir.Peer {
		return []ir.Peer{{Name: "backend.west", SNI: sni, Identities: []string{backendID}}}
	}
	remote := func(name string) *ir.EndpointSet {
		return &ir.EndpointSet{Name: name, Hosts: []ir.Host{{Zone: "west", Weight: 1, Peer: "backend.west", Gateway: "gateway_default_west"}}}
	}
	z.webIR = &ir.Proxy{
		Class: &ir.Class{Mesh: "default", ID: "web"}, Zone: "east", HasIdentity: true,
		Outbounds: []ir.Outbound{
			{Name: httpName, Address: "127.0.0.1", Port: z.webHTTP, Protocol: ir.HTTP, Timeouts: timeouts(),
				Routes: []ir.Route{{Name: "default", Backends: []ir.WeightedBackend{{Destination: httpName, Weight: 1}}, Timeouts: timeouts()}}},
			{Name: tcpName, Address: "127.0.0.1", Port: z.webTCP, Protocol: ir.TCP, Timeouts: timeouts(),
				Backends: []ir.WeightedBackend{{Destination: tcpName, Weight: 1}}},
		},
		Destinations: []ir.Destination{
			{Name: httpName, Protocol: ir.HTTP, Peers: peer(sniHTTP), Timeouts: timeouts()},
			{Name: tcpName, Protocol: ir.TCP, Peers: peer(sniTCP), Timeouts: timeouts()},
		},
		Gateways: []ir.Gateway{{Name: "gateway_default_west", Zone: "west"}},
	}
	z.webSets = []*ir.EndpointSet{remote(httpName), remote(tcpName),
		{Name: "gateway_default_west", Hosts: []ir.Host{{Address: "127.0.0.1", Port: z.ingress, Zone: "west", Weight: 1}}}}
	return z
}

func (z *zones) run() {
	z.t.Helper()
	loop := ir.InstanceInbound{Address: "127.0.0.1", ServiceAddress: "127.0.0.1"}
	z.backend = z.start("backend", backendID, z.backendIR, &ir.Instance{Inbounds: []ir.InstanceInbound{loop, loop}})
	z.gateway = z.start("ingress", ingressID, z.ingwIR, &ir.Instance{Listeners: []string{"127.0.0.1"}}, z.ingwSets...)
	z.web = z.start("web", webID, z.webIR, &ir.Instance{}, z.webSets...)
}

func (z *zones) call(path string) (int, string) {
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", z.webHTTP, path))
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func (z *zones) wantCall(path string, status int) string {
	z.t.Helper()
	var got int
	var body string
	z.eventually(fmt.Sprintf("GET %s answers %d", path, status), func() bool {
		got, body = z.call(path)
		return got == status
	})
	return body
}

// webSocket opens one to the server, which echoes lines.
func (z *zones) webSocket() (net.Conn, *bufio.Reader) {
	z.t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", z.webHTTP))
	must(z.t, err)
	conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: backend\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	must(z.t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		z.t.Fatalf("upgrade got %s", resp.Status)
	}
	return conn, in
}

// TestAcrossZones: the whole path on real Envoys, what passes and what does not.
func TestAcrossZones(t *testing.T) {
	z := newZones(t)
	z.run()
	body := z.wantCall("/hello", 200)
	if !strings.Contains(body, "By="+backendID) || !strings.Contains(body, "URI="+webID) {
		t.Errorf("the server saw %q, want both SPIFFE IDs", body)
	}

	t.Run("the ingress learns a service without a listener change", func(t *testing.T) {
		before := z.gateway.stat("listener_manager.listener_modified") + z.gateway.stat("listener_manager.listener_in_place_updated") + z.gateway.stat("listener_manager.listener_added")
		if _, err := z.echo(); err == nil {
			t.Error("TCP service answered before the ingress knew it")
		}
		z.ingwIR.Exports = append(z.ingwIR.Exports, ir.Export{SNI: mesh.SNI(9090, "backend", "west", "default"), Port: 9090})
		z.gateway.update(z.ingwIR, z.ingwSets...)
		z.eventually("echo over TCP", func() bool { _, err := z.echo(); return err == nil })
		after := z.gateway.stat("listener_manager.listener_modified") + z.gateway.stat("listener_manager.listener_in_place_updated") + z.gateway.stat("listener_manager.listener_added")
		if before != after {
			t.Errorf("listener changes went from %s to %s", before, after)
		}
	})

	t.Run("a tightened permission denies the next request of an open connection", func(t *testing.T) {
		open := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
		get := func() int {
			resp, err := open.Get(fmt.Sprintf("http://127.0.0.1:%d/", z.webHTTP))
			must(t, err)
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			return resp.StatusCode
		}
		if got := get(); got != 200 {
			t.Fatalf("before: %d", got)
		}
		connections := z.backend.stat("http.self_inbound_dp_http.downstream_cx_total")
		granted := z.backendIR.Inbounds[0].Permission
		z.backendIR.Inbounds[0].Permission = ir.Permission{
			Deny:  []ir.PermissionMatch{allow(webID)},
			Allow: granted.Allow,
		}
		z.backend.update(z.backendIR)
		for i := range 20 {
			if got := get(); got != 403 {
				t.Fatalf("request %d after the ACK: %d, want 403", i, got)
			}
		}
		z.backendIR.Inbounds[0].Permission = granted
		z.backend.update(z.backendIR)
		if got := get(); got != 200 {
			t.Errorf("lifted: %d", got)
		}
		if now := z.backend.stat("http.self_inbound_dp_http.downstream_cx_total"); now != connections {
			t.Errorf("connections between the sidecars went from %s to %s", connections, now)
		}
	})

	t.Run("a WebSocket crosses", func(t *testing.T) {
		conn, in := z.webSocket()
		defer conn.Close()
		fmt.Fprintln(conn, "over the socket")
		if got, err := in.ReadString('\n'); err != nil || got != "over the socket\n" {
			t.Errorf("echo over the socket: %q, %v", got, err)
		}
	})

	t.Run("plain text is refused", func(t *testing.T) {
		if resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", z.inHTTP)); err == nil {
			t.Errorf("plain request got %s", resp.Status)
		}
	})

	t.Run("a caller does not steer the server's router", func(t *testing.T) {
		client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{
			Certificates: []tls.Certificate{z.issue(webID, webID)}, InsecureSkipVerify: true, ServerName: mesh.SNI(8080, "backend", "west", "default")}}}
		req, err := http.NewRequest(http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/slow", z.inHTTP), nil)
		must(t, err)
		req.Header.Set("X-Envoy-Upstream-Rq-Timeout-Ms", "1")
		req.Header.Set("X-Forwarded-For", "10.0.0.1")
		resp, err := client.Do(req)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("a request that asks for a timeout of its own got %s", resp.Status)
		}
	})

	t.Run("the application hears nothing of a caller without identity", func(t *testing.T) {
		before := z.accepted.Load()
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", z.inTCP))
		must(t, err)
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		nameless := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: mesh.SNI(9090, "backend", "west", "default")})
		nameless.Handshake() // a TLS 1.3 server refuses only after it
		if _, err := nameless.Read(make([]byte, 1)); err == nil {
			t.Error("a caller without certificate was answered")
		}
		if after := z.accepted.Load(); after != before {
			t.Errorf("the application accepted %d connections", after-before)
		}
	})

	t.Run("a certificate of another authority is refused", func(t *testing.T) {
		genuine := z.issue(backendID, backendID)
		if err := z.dialInbound(genuine); err == nil || !strings.Contains(err.Error(), "status 403") {
			t.Errorf("genuine west identity: %v, want the handshake to pass and 403", err)
		}
		if err := z.dialInbound(z.issue(webID, webID)); err != nil {
			t.Errorf("genuine web identity: %v", err)
		}
		// The zone west's authority signs an ID of zone east.
		if err := z.dialInbound(z.issue(webID, backendID)); err == nil || strings.Contains(err.Error(), "status 403") {
			t.Errorf("forged client: %v, want a refused handshake", err)
		}
		// The zone east's authority signs the server's ID.
		anew := func() { // a changed cluster makes new handshakes
			z.webIR.Destinations[0].Timeouts.Connect += time.Millisecond
			z.web.update(z.webIR, z.webSets...)
		}
		z.backend.present(z.issue(backendID, webID))
		z.eventually("the forged certificate is served", func() bool { anew(); status, _ := z.call("/forged"); return status == 503 })
		if failed := z.web.stat("cluster." + httpName + ".ssl.fail_verify_error"); failed == "0" || failed == "" {
			t.Errorf("fail_verify_error is %q, want the verification to be what failed", failed)
		}
		z.backend.present(z.issue(backendID, backendID))
		z.eventually("the genuine certificate passes", func() bool { anew(); status, _ := z.call("/genuine"); return status == 200 })
	})
}

// TestChangesCostNoConnection: timeouts, routes, permissions, certificates and
// endpoints change under a long-lived TCP connection and a streaming request.
func TestChangesCostNoConnection(t *testing.T) {
	z := newZones(t)
	z.ingwIR.Exports = append(z.ingwIR.Exports, ir.Export{SNI: mesh.SNI(9090, "backend", "west", "default"), Port: 9090})
	z.run()
	z.wantCall("/", 200)
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", z.webTCP))
	must(t, err)
	defer conn.Close()
	lines := bufio.NewReader(conn)
	socket, socketLines := z.webSocket()
	defer socket.Close()
	keepAlive := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxConnsPerHost: 1}}
	var local string // of the kept connection
	ping := func(what string) {
		t.Helper()
		for name, c := range map[string]struct {
			net.Conn
			lines *bufio.Reader
		}{"TCP connection": {conn, lines}, "WebSocket": {socket, socketLines}} {
			c.SetDeadline(time.Now().Add(time.Minute))
			fmt.Fprintln(c, what)
			if got, err := c.lines.ReadString('\n'); err != nil || strings.TrimSpace(got) != what {
				t.Fatalf("the open %s after %s: %q, %v", name, what, got, err)
			}
		}
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
			if at := i.Conn.LocalAddr().String(); local != "" && local != at {
				t.Errorf("after %s the kept connection of HTTP/1.1 was another", what)
			}
			local = i.Conn.LocalAddr().String()
		}}), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", z.webHTTP), nil)
		must(t, err)
		resp, err := keepAlive.Do(req)
		if err != nil {
			t.Fatalf("the kept connection after %s: %v", what, err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("the kept connection after %s: %s", what, resp.Status)
		}
	}
	ping("start")
	drained := func() string {
		return z.web.stat("listener_manager.total_filter_chains_draining") + "/" + z.web.stat("listener_manager.listener_modified") + "/" + z.web.stat("listener_manager.listener_in_place_updated") +
			" " + z.backend.stat("listener_manager.total_filter_chains_draining") + "/" + z.backend.stat("listener_manager.listener_modified") + "/" + z.backend.stat("listener_manager.listener_in_place_updated")
	}
	before := drained()
	loop := ir.InstanceInbound{Address: "127.0.0.1", ServiceAddress: "127.0.0.1"}

	slow := timeouts()
	slow.Connect, slow.Idle, slow.Request, slow.StreamIdle, slow.MaxConnection = 40*time.Second, 20*time.Minute, 50*time.Second, 3*time.Minute, 2*time.Hour
	for i := range z.webIR.Outbounds {
		z.webIR.Outbounds[i].Timeouts, z.webIR.Destinations[i].Timeouts, z.backendIR.Inbounds[i].Timeouts = slow, slow, slow
	}
	z.webIR.Outbounds[0].Routes[0].Timeouts = slow
	z.web.update(z.webIR, z.webSets...)
	z.assign("backend", z.backendIR, &ir.Instance{Inbounds: []ir.InstanceInbound{loop, loop}})
	z.backend.update(z.backendIR)
	ping("timeouts")

	z.webIR.Outbounds[0].Routes = append([]ir.Route{{Name: "head", Match: mesh.HTTPMatch{Path: &mesh.PathMatch{Type: "PathPrefix", Value: "/v2"}},
		Filters:  []mesh.HTTPFilter{{Type: "RequestHeaderModifier", RequestHeaderModifier: &mesh.HeaderModifier{Set: []mesh.HeaderValue{{Name: "x-route", Value: "v2"}}}}},
		Backends: []ir.WeightedBackend{{Destination: httpName, Weight: 1}}, Timeouts: slow}}, z.webIR.Outbounds[0].Routes...)
	z.webIR.Outbounds[1].Backends = append(z.webIR.Outbounds[1].Backends, ir.WeightedBackend{Destination: httpName, Weight: 1})
	z.web.update(z.webIR, z.webSets...)
	ping("routes")
	if body := z.wantCall("/v2/x", 200); !strings.HasSuffix(body, "v2") {
		t.Errorf("routed request: %q", body)
	}

	more := allow("spiffe://default.east.mesh.local/workload/other")
	z.backendIR.Inbounds[1].Permission.Allow = append(z.backendIR.Inbounds[1].Permission.Allow, more)
	z.backend.update(z.backendIR)
	ping("permission")

	z.backend.present(z.issue(backendID, backendID))
	z.web.present(z.issue(webID, webID))
	z.wantCall("/after-renewal", 200)
	ping("certificates")

	z.trust = append(z.trust, ir.TrustBundle{TrustDomain: "default.north.mesh.local", PEM: z.trust[0].PEM})
	z.web.update(z.webIR, z.webSets...)
	ping("trust")

	if after := drained(); after != before {
		t.Errorf("listeners changed: %s, then %s", before, after)
	}

	// A tightened TCP permission cuts open connections by a new generation.
	z.backendIR.Inbounds[1].Permission = ir.Permission{}
	z.backendIR.Inbounds[1].Generation++
	z.assign("backend", z.backendIR, &ir.Instance{Inbounds: []ir.InstanceInbound{loop, loop}})
	z.backend.update(z.backendIR)
	conn.SetDeadline(time.Now().Add(60 * time.Second))
	if _, err := lines.ReadString('\n'); err == nil {
		t.Error("the open connection survived a tightened permission")
	}
	if _, err := z.echo(); err == nil {
		t.Error("a new connection passed a permission that allows nobody")
	}
}

// TestRefusedCallersHearNothing: a server that speaks first is not heard by
// callers that its permission refuses.
func TestRefusedCallersHearNothing(t *testing.T) {
	z := newZones(t)
	greeter, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { greeter.Close() })
	go func() {
		for {
			conn, err := greeter.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, "hello")
			conn.Close()
		}
	}()
	z.backendIR.Inbounds[1].ServicePort = portOf(greeter)
	z.run()
	heard := func() string {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", z.inTCP), &tls.Config{
			Certificates: []tls.Certificate{z.issue(webID, webID)}, InsecureSkipVerify: true, ServerName: mesh.SNI(9090, "backend", "west", "default")})
		if err != nil {
			return ""
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		text, _ := io.ReadAll(conn)
		return string(text)
	}
	prefix := ir.PermissionMatch{Match: mesh.Match{SpiffeID: &mesh.SpiffeIDMatch{Type: "Prefix", Value: "spiffe://default.east.mesh.local/"}}}
	for _, test := range []struct {
		name       string
		permission ir.Permission
		hears      bool
	}{
		{"allowed", ir.Permission{Allow: []ir.PermissionMatch{allow(webID)}}, true},
		{"nobody allowed", ir.Permission{}, false},
		{"allowed by prefix", ir.Permission{Allow: []ir.PermissionMatch{prefix}}, true},
		{"another allowed", ir.Permission{Allow: []ir.PermissionMatch{allow(backendID)}}, false},
		{"shadow denied", ir.Permission{AllowWithShadowDeny: []ir.PermissionMatch{allow(webID)}}, true},
		{"allowed and denied", ir.Permission{Allow: []ir.PermissionMatch{allow(webID), allow(backendID)}, Deny: []ir.PermissionMatch{prefix}}, false},
	} {
		z.backendIR.Inbounds[1].Permission = test.permission
		z.backend.update(z.backendIR)
		if got := heard(); (got == "hello\n") != test.hears {
			t.Errorf("%s: the caller hears %q", test.name, got)
		}
	}
}

// TestBadResourcesHarmNobody: each type gets a bad resource beside good ones.
func TestBadResourcesHarmNobody(t *testing.T) {
	z := newZones(t)
	z.ingwIR.Exports = append(z.ingwIR.Exports, ir.Export{SNI: mesh.SNI(9090, "backend", "west", "default"), Port: 9090})
	z.run()
	z.wantCall("/", 200)
	for _, test := range []struct {
		name string
		bad  func()
		typ  string
	}{
		{"RDS", func() {
			z.webIR.Outbounds[0].Routes = append([]ir.Route{{Name: "bad", Match: mesh.HTTPMatch{Path: &mesh.PathMatch{Type: "RegularExpression", Value: "((("}},
				Backends: []ir.WeightedBackend{{Destination: httpName, Weight: 1}}, Timeouts: timeouts()}}, z.webIR.Outbounds[0].Routes...)
		}, xds.RouteType},
		{"EDS", func() {
			z.webSets = append([]*ir.EndpointSet{{Name: tcpName, Hosts: []ir.Host{{Address: "not an address", Port: 1, Weight: 1}}}}, z.webSets[0], z.webSets[2])
		}, xds.EndpointType},
		{"CDS", func() {
			z.webIR.Destinations = append(z.webIR.Destinations, ir.Destination{Name: "kri_bad", Protocol: ir.TCP, Timeouts: ir.Timeouts{Connect: -1}})
		}, xds.ClusterType},
		{"LDS", func() {
			z.webIR.Outbounds = append(z.webIR.Outbounds, ir.Outbound{Name: tcpName, Address: "192.0.2.77", Port: 1, Protocol: ir.TCP, Timeouts: timeouts(),
				Backends: []ir.WeightedBackend{{Destination: tcpName, Weight: 1}}})
		}, xds.ListenerType},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, sets := *z.webIR, append([]*ir.EndpointSet(nil), z.webSets...)
			p.Outbounds = append([]ir.Outbound(nil), z.webIR.Outbounds...)
			test.bad()
			z.publish("web", z.webIR, z.webSets...)
			z.eventually("a rejection of "+test.typ, func() bool { return rejects(z.ads.Rejections(), test.typ) != "" })
			t.Logf("Envoy: %s", rejects(z.ads.Rejections(), test.typ))
			// What is good beside it, and later, applies: a changed route answers.
			z.wantCall("/still", 200)
			if test.typ != xds.RouteType {
				z.webIR.Outbounds[0].Routes = []ir.Route{{Name: "redirect", Filters: []mesh.HTTPFilter{{Type: "RequestRedirect", RequestRedirect: &mesh.RequestRedirect{}}}}}
				z.publish("web", z.webIR, z.webSets...)
				z.eventually("the good route beside the bad resource", func() bool { status, _ := z.callOnce("/"); return status == 302 })
			}
			*z.webIR, z.webSets = p, sets
			z.web.update(z.webIR, z.webSets...)
			z.wantCall("/healed", 200)
		})
	}
	t.Run("ECDS", func(t *testing.T) {
		granted := z.backendIR.Inbounds[0].Permission
		resources, err := xds.Build(z.backendIR)
		must(t, err)
		b, err := xds.BuildBundles(z.trust)
		must(t, err)
		broken := append([]*delta.Resource{b}, resources...)
		for i, r := range broken {
			if r.Name == xds.PermissionName("http") {
				broken[i] = &delta.Resource{TypeURL: r.TypeURL, Name: r.Name, Version: "bad", Body: badPermission(t)}
			}
		}
		z.push("backend", broken)
		z.eventually("a rejection", func() bool { return rejects(z.ads.Rejections(), xds.ExtensionType) != "" })
		t.Logf("Envoy: %s", rejects(z.ads.Rejections(), xds.ExtensionType))
		z.wantCall("/still", 200)
		if _, err := z.echo(); err != nil {
			t.Errorf("TCP beside it: %v", err)
		}
		z.backendIR.Inbounds[0].Permission = ir.Permission{}
		z.backend.update(z.backendIR)
		z.wantCall("/", 403)
		z.backendIR.Inbounds[0].Permission = granted
		z.backend.update(z.backendIR)
		z.wantCall("/", 200)
	})
}

// TestUndelivered: a request that never reached the application goes elsewhere.
func TestUndelivered(t *testing.T) {
	z := newZones(t)
	second := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "second") }))
	defer second.Close()
	loop := ir.InstanceInbound{Address: "127.0.0.1", ServiceAddress: "127.0.0.1"}
	otherPort := freePort(t)
	other := *z.backendIR
	other.Inbounds = []ir.Inbound{z.backendIR.Inbounds[0]}
	other.Inbounds[0].Port, other.Inbounds[0].ServicePort = otherPort, portOf(second.Listener)
	z.webIR.Zone = "west" // both servers are local to the caller
	z.webSets[0].Hosts = []ir.Host{
		{Address: "127.0.0.1", Port: z.inHTTP, Zone: "west", Weight: 1, Peer: "backend.west"},
		{Address: "127.0.0.1", Port: otherPort, Zone: "west", Weight: 1, Priority: 1, Peer: "backend.west"},
	}
	z.run()
	z.start("other", backendID, &other, &ir.Instance{Inbounds: []ir.InstanceInbound{loop}})
	z.wantCall("/", 200)
	z.app.Listener.Close()
	z.app.CloseClientConnections()
	// A request on a connection that ends just then may have been heard: it is not sent again.
	z.eventually("the server's sidecar sees its connections end", func() bool { return z.backend.stat("cluster.self_inbound_dp_http.upstream_cx_active") == "0" })
	for i := range 50 {
		if status, body := z.callOnce("/"); status != 200 || body != "second" {
			t.Fatalf("request %d after the application died: %d %q", i, status, body)
		}
	}
}

func (z *zones) callOnce(path string) (int, string) {
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", z.webHTTP, path))
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// echo opens a TCP connection through the mesh and exchanges a line.
func (z *zones) echo() (string, error) {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", z.webTCP), time.Minute)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintln(conn, "ping")
	return bufio.NewReader(conn).ReadString('\n')
}

// dialInbound calls backend's inbound directly with a certificate.
func (z *zones) dialInbound(cert tls.Certificate) error {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, ServerName: "8080.backend.west.default.mesh"},
		DialTLSContext:  nil,
	}}
	resp, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/", z.inHTTP))
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// forge signs any SPIFFE ID with an authority's key, as a stolen zone could.
func (r *rig) forge(authority *ca.Authority, spiffeID string, key *ecdsa.PrivateKey) []byte {
	r.t.Helper()
	text, err := authority.MarshalKey()
	must(r.t, err)
	block, _ := pem.Decode(text)
	signer, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(r.t, err)
	id, err := url.Parse(spiffeID)
	must(r.t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), URIs: []*url.URL{id},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, authority.Certificate(), key.Public(), signer)
	must(r.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func allow(id string) ir.PermissionMatch {
	return ir.PermissionMatch{
		Match:  mesh.Match{SpiffeID: &mesh.SpiffeIDMatch{Type: "Exact", Value: id}},
		Source: ir.Source{Key: mesh.Key{Kind: mesh.KindMeshTrafficPermission, Mesh: "default", Name: "allow"}, Path: "rules[0].default.allow[0]"},
	}
}

func timeouts() ir.Timeouts {
	return ir.Timeouts{Connect: 30 * time.Second, Idle: time.Hour, Request: time.Minute, StreamIdle: 30 * time.Minute}
}

func rejects(list []delta.Rejection, typeURL string) string {
	for _, r := range list {
		if r.TypeURL == typeURL {
			return r.Resource + ": " + r.Reason
		}
	}
	return ""
}

func echoServer(t *testing.T, accepted *atomic.Int64) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return l
}

// echoUpgraded switches protocols and sends back what comes.
func echoUpgraded(w http.ResponseWriter) {
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	io.Copy(conn, buffered)
}

func portOf(l net.Listener) uint32 { return uint32(l.Addr().(*net.TCPAddr).Port) }

func freePort(t *testing.T) uint32 { return uint32(ports.Free(t)) }
