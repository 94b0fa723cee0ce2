package xds_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// TestChangesCostNoStream: timeouts, routes, permissions, certificates and trust change
// under a stream of gRPC's kind, open in both directions across both zones.
func TestChangesCostNoStream(t *testing.T) {
	z := newZones(t)
	var plain http.Protocols
	plain.SetUnencryptedHTTP2(true)
	app := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		flush := http.NewResponseController(w)
		if flush.Flush() != nil {
			return
		}
		for lines := bufio.NewScanner(r.Body); lines.Scan(); {
			if _, err := fmt.Fprintln(w, lines.Text()); err != nil || flush.Flush() != nil {
				return
			}
		}
		w.Header().Set("Grpc-Status", "0")
	}))
	app.Config.Protocols = &plain
	app.Start()
	t.Cleanup(app.Close)
	in, out, to := &z.backendIR.Inbounds[0], &z.webIR.Outbounds[0], &z.webIR.Destinations[0]
	in.ServicePort, in.Protocol, out.Protocol, to.Protocol = portOf(app.Listener), ir.GRPC, ir.GRPC, ir.GRPC
	calls := func(idle time.Duration) ir.Timeouts {
		t := timeouts()
		t.Connect, t.Request, t.Idle, t.StreamIdle, t.MaxConnection = 30*time.Second, 0, idle, idle, 2*idle
		return t
	}
	in.Timeouts, out.Timeouts, to.Timeouts, out.Routes[0].Timeouts = calls(time.Hour), calls(time.Hour), calls(time.Hour), calls(time.Hour)
	z.run()

	client := &http.Client{Transport: &http.Transport{Protocols: &plain}}
	body, say := io.Pipe()
	t.Cleanup(func() { say.Close() })
	var resp *http.Response
	z.eventually("a stream is open", func() bool {
		body, say = io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/echo.Echo/Talk", z.webHTTP), body)
		must(t, err)
		req.Header.Set("Content-Type", "application/grpc")
		resp, err = client.Do(req)
		if err == nil && resp.StatusCode == http.StatusOK && resp.Header.Get("Grpc-Status") == "" {
			return true
		}
		if err == nil {
			resp.Body.Close()
		}
		say.Close()
		return false
	})
	defer resp.Body.Close()
	heard := make(chan string)
	go func() {
		defer close(heard)
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			heard <- lines.Text()
		}
	}()
	ping := func(what string) {
		t.Helper()
		go fmt.Fprintln(say, what) // blocks until it is taken
		select {
		case got, open := <-heard:
			if !open || got != what {
				t.Fatalf("the open stream after %s: %q, open: %v", what, got, open)
			}
		case <-time.After(time.Minute):
			t.Fatalf("the open stream after %s: no answer", what)
		}
	}
	ping("start")
	loop := ir.InstanceInbound{Address: "127.0.0.1", ServiceAddress: "127.0.0.1"}

	in.Timeouts, out.Timeouts, to.Timeouts, out.Routes[0].Timeouts = calls(2*time.Hour), calls(2*time.Hour), calls(2*time.Hour), calls(2*time.Hour)
	z.web.update(z.webIR, z.webSets...)
	z.assign("backend", z.backendIR, &ir.Instance{Inbounds: []ir.InstanceInbound{loop, loop}})
	z.backend.update(z.backendIR)
	ping("timeouts")

	out.Routes = append([]ir.Route{{Name: "other", Match: mesh.HTTPMatch{Path: &mesh.PathMatch{Type: "PathPrefix", Value: "/other"}},
		Backends: []ir.WeightedBackend{{Destination: httpName, Weight: 1}}, Timeouts: calls(time.Hour)}}, out.Routes...)
	z.web.update(z.webIR, z.webSets...)
	ping("routes")

	in.Permission.Allow = append(in.Permission.Allow, allow("spiffe://default.east.mesh.local/workload/other"))
	z.backend.update(z.backendIR)
	ping("permission")

	z.backend.present(z.issue(backendID, backendID))
	z.web.present(z.issue(webID, webID))
	z.trust = append(z.trust, ir.TrustBundle{TrustDomain: "default.north.mesh.local", PEM: z.trust[0].PEM})
	z.web.update(z.webIR, z.webSets...)
	ping("certificates and trust")

	// What concerns it does reach it: the next stream of the same connection is refused.
	granted := in.Permission
	in.Permission = ir.Permission{}
	z.backend.update(z.backendIR)
	next, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/echo.Echo/Talk", z.webHTTP), strings.NewReader("late\n"))
	must(t, err)
	next.Header.Set("Content-Type", "application/grpc")
	refused, err := client.Do(next)
	must(t, err)
	refused.Body.Close()
	if status := refused.Header.Get("Grpc-Status"); status != "7" {
		t.Errorf("a new stream of who is refused gets %s, grpc-status %q", refused.Status, status)
	}
	in.Permission = granted
	z.backend.update(z.backendIR)
	ping("a permission that was away for a moment")
}
