package appprobe

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tombolo-mesh/tombolo/internal/ports"
)

// application answers on plain HTTP; what a request looked like is its answer's
// status: 200 only when it is as a kubelet would send it.
func application(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/ok":
		_, _ = io.WriteString(w, "secret")
	case "/exact":
		for want, got := range map[string]string{"web.test": r.Host, "b": r.Header.Get("X-A"), "x=1": r.URL.RawQuery, "*/*": r.Header.Get("Accept"), "kube-probe/1.36": r.UserAgent()} {
			if got != want {
				http.Error(w, got, http.StatusTeapot)
			}
		}
	case "/default":
		if !strings.HasPrefix(r.Host, "127.0.0.1:") || strings.HasSuffix(r.Host, ":9001") || r.UserAgent() != userAgent {
			http.Error(w, r.Host, http.StatusTeapot)
		}
	case "/here":
		http.Redirect(w, r, "/missing", http.StatusFound)
	case "/elsewhere":
		http.Redirect(w, r, "http://elsewhere.test/missing", http.StatusFound)
	case "/loop":
		http.Redirect(w, r, "/loop", http.StatusFound)
	case "/slow":
		<-r.Context().Done()
	default:
		http.NotFound(w, r)
	}
}

func portOf(t *testing.T, address string) uint16 {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(a.Port)
}

func TestServer(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(application))
	defer plain.Close()
	secure := httptest.NewTLSServer(http.HandlerFunc(application))
	defer secure.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	checks := health.NewServer()
	checks.SetServingStatus("live", grpc_health_v1.HealthCheckResponse_SERVING)
	checks.SetServingStatus("down", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	rpc := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(rpc, checks)
	go func() { _ = rpc.Serve(listener) }() // ends with Stop
	defer rpc.Stop()
	nobody := uint16(ports.Free(t))

	http1, https, rpcPort := portOf(t, plain.Listener.Addr().String()), portOf(t, secure.Listener.Addr().String()), portOf(t, listener.Addr().String())
	for name, c := range map[string]struct {
		probe Probe
		agent string
		want  int    // 0: the connection is cut
		text  string // in the answer
	}{
		"http":                      {probe: Probe{Type: HTTP, Port: http1, Path: "/ok", TimeoutSeconds: 1}, want: 200},
		"path without slash":        {probe: Probe{Type: HTTP, Port: http1, Path: "ok", TimeoutSeconds: 1}, want: 200},
		"failure":                   {probe: Probe{Type: HTTP, Port: http1, Path: "/no", TimeoutSeconds: 1}, want: 404},
		"as a kubelet":              {probe: Probe{Type: HTTP, Port: http1, Path: "/exact?x=1", Headers: []Header{{"Host", "web.test"}, {"X-A", "b"}}, TimeoutSeconds: 1}, agent: "kube-probe/1.36", want: 200},
		"its own headers":           {probe: Probe{Type: HTTP, Port: http1, Path: "/default", TimeoutSeconds: 1}, agent: "curl/8", want: 200},
		"redirect on the same host": {probe: Probe{Type: HTTP, Port: http1, Path: "/here", TimeoutSeconds: 1}, want: 404},
		"redirect to elsewhere":     {probe: Probe{Type: HTTP, Port: http1, Path: "/elsewhere", TimeoutSeconds: 1}, want: 200},
		"redirects for ever":        {probe: Probe{Type: HTTP, Port: http1, Path: "/loop", TimeoutSeconds: 1}, want: 503, text: "stopped after 10 redirects"},
		"too slow":                  {probe: Probe{Type: HTTP, Port: http1, Path: "/slow", TimeoutSeconds: 1}, want: 503, text: "deadline exceeded"},
		"nobody there":              {probe: Probe{Type: HTTP, Port: nobody, TimeoutSeconds: 1}, want: 503, text: "connection refused"},
		"https, any certificate":    {probe: Probe{Type: HTTPS, Port: https, Path: "/ok", TimeoutSeconds: 1}, want: 200},
		"http to https":             {probe: Probe{Type: HTTP, Port: https, Path: "/ok", TimeoutSeconds: 1}, want: 400},
		"tcp":                       {probe: Probe{Type: TCP, Port: http1, TimeoutSeconds: 1}, want: 200},
		"tcp, nobody there":         {probe: Probe{Type: TCP, Port: nobody, TimeoutSeconds: 1}, want: 503, text: "connection refused"},
		"grpc":                      {probe: Probe{Type: GRPC, Port: rpcPort, Service: "live", TimeoutSeconds: 1}, want: 200},
		"grpc, the whole server":    {probe: Probe{Type: GRPC, Port: rpcPort, TimeoutSeconds: 1}, want: 200},
		"grpc, not serving":         {probe: Probe{Type: GRPC, Port: rpcPort, Service: "down", TimeoutSeconds: 1}, want: 503, text: `service "down" is NOT_SERVING`},
		"grpc, unknown":             {probe: Probe{Type: GRPC, Port: rpcPort, Service: "x", TimeoutSeconds: 1}, want: 503, text: "NotFound"},
		"hook":                      {probe: Probe{Type: HTTP, Port: http1, Path: "/no"}, want: 404},
		"hook, nobody there":        {probe: Probe{Type: HTTP, Port: nobody}, want: 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := NewServer(Config{Host: "127.0.0.1", Table: Table{"web/liveness": c.probe}})
			if err != nil {
				t.Fatal(err)
			}
			front := httptest.NewServer(s)
			defer front.Close()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, front.URL+Path("web", Liveness, ""), nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("User-Agent", c.agent)
			r.Header.Set("X-A", "the caller's, which nobody passes on")
			response, err := front.Client().Do(r)
			if err != nil {
				if c.want != 0 {
					t.Fatal(err)
				}
				return
			}
			defer response.Body.Close()
			text, _ := io.ReadAll(response.Body)
			if response.StatusCode != c.want || !strings.Contains(string(text), c.text) {
				t.Errorf("%d %q, want %d %q", response.StatusCode, text, c.want, c.text)
			}
			if strings.Contains(string(text), "secret") {
				t.Error("the application's answer is passed on to everyone")
			}
		})
	}
}

// TestManyAskAtOnce: whoever reaches the port can ask, and cannot keep the kubelet
// from its answer, nor make the application answer more than once.
func TestManyAskAtOnce(t *testing.T) {
	asked, answer := make(chan struct{}, 1000), make(chan struct{})
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-answer
	}))
	defer app.Close()
	s, err := NewServer(Config{Host: "127.0.0.1", Table: Table{Key("app", Liveness): {Type: HTTP, Path: "/", Port: portOf(t, app.Listener.Addr().String()), TimeoutSeconds: 60}}})
	if err != nil {
		t.Fatal(err)
	}
	const many = 2 * maxInFlight
	codes := make(chan int, many)
	arrived := make(chan struct{}, many)
	ask := func() {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, Path("app", Liveness, ""), nil)
		arrived <- struct{}{}
		s.ServeHTTP(w, r)
		codes <- w.Code
	}
	go ask()
	<-asked // the first waits for the application
	for range many - 1 {
		go ask()
	}
	for range many {
		<-arrived
	}
	close(answer)
	for range many {
		if code := <-codes; code != http.StatusOK {
			t.Fatalf("status %d", code)
		}
	}
}

func TestOnlyWhatIsInTheTable(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(application))
	defer app.Close()
	port := portOf(t, app.Listener.Addr().String())
	s, err := NewServer(Config{Host: "127.0.0.1", Table: Table{"web/liveness": {Type: HTTP, Port: port, Path: "/ok", TimeoutSeconds: 1},
		"web/prestop": {Type: HTTP, Port: port, Path: "/ok", Secret: "s3cret"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/app-probes/web/liveness?path=/no", 200},
		{"GET", "/app-probes/web/readiness", 404},
		{"GET", Path("web", PreStop, "s3cret"), 200},
		{"GET", Path("web", PreStop, ""), 404},
		{"GET", Path("web", PreStop, "") + "/", 404},
		{"GET", Path("web", PreStop, "another"), 404},
		{"GET", Path("web", PreStop, "s3cret") + "/more", 404},
		{"GET", Path("web", Liveness, "s3cret"), 404},
		{"GET", Path("web", Liveness, "") + "/", 404},
		{"GET", "/ok", 404},
		{"GET", fmt.Sprintf("/%d/ok", port), 404},
		{"POST", "/app-probes/web/liveness", 405},
	} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, w.Code, c.want)
		}
	}
}

func TestParse(t *testing.T) {
	if table, err := Parse(nil); err != nil || table != nil {
		t.Errorf("no text: %v, %v", table, err)
	}
	for text, want := range map[string]string{
		`{`:                                "unexpected EOF",
		`{"web/liveness":{"a":1}}`:         "unknown field",
		`{"web":{"type":"http","port":1}}`: "must be <container>/<",
		`{"web/liveness":{"type":"exec","port":1}}`:                    "type must be http",
		`{"web/liveness":{"type":"tcp"}}`:                              "port must be",
		`{"web/liveness":{"type":"tcp","port":1,"timeoutSeconds":-1}}`: "timeoutSeconds",
		`{"web/liveness":{"type":"tcp","port":70000}}`:                 "cannot unmarshal",
		`{"web/prestop":{"type":"tcp","port":1,"secret":"a/b"}}`:       "letters and digits",
		strings.Repeat(" ", maxTable+1):                                "at most",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q in it", text, err, want)
		}
	}
}
