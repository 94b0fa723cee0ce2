package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
)

// patience of a test with what should come, on the slowest machine.
const patience = time.Minute

// serving runs a server on the loopback, where whoever dials chooses an address of
// 127.0.0.0/8. A request's body may take so long.
func serving(t *testing.T, budget time.Duration) (address string, conf *tls.Config) {
	t.Helper()
	front := httptest.NewTLSServer(nil) // for its certificate
	front.Close()
	conf = front.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.ServerName = "example.com"
	s, err := NewServer(ServerConfig{TLS: &tls.Config{Certificates: front.TLS.Certificates, MinVersion: tls.VersionTLS13},
		Inject: func(context.Context, *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	s.budget = budget
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), conf
}

func dialer(from string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
}

// slowRequest opens a request and sends the first byte of its body.
func slowRequest(t *testing.T, address string, conf *tls.Config) *tls.Conn {
	t.Helper()
	c, err := tls.DialWithDialer(dialer("127.0.0.9"), "tcp", address, conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := fmt.Fprintf(c, "POST /inject HTTP/1.1\r\nHost: example.com\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	return c
}

// Whoever opens requests and does not go on sending them holds up nobody else.
func TestSlowRequestsHoldUpNobody(t *testing.T) {
	address, conf := serving(t, time.Hour)
	for range perSource {
		slowRequest(t, address, conf)
	}
	// One connection more than an address may have is closed.
	if c, err := tls.DialWithDialer(dialer("127.0.0.9"), "tcp", address, conf); err == nil {
		c.Close()
		t.Error("there is room for more connections of one address")
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: conf, DialContext: dialer("127.0.0.2").DialContext, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	r, err := client.Post("https://"+address+"/inject", "application/json", strings.NewReader(review(`{"metadata":{"name":"web"}}`, false)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if text, err := io.ReadAll(r.Body); err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("%d %q, %v", r.StatusCode, text, err)
	}
}

// A slow request is answered when its time is over, and its connection ends.
func TestSlowRequestsEnd(t *testing.T) {
	address, conf := serving(t, 100*time.Millisecond)
	c := slowRequest(t, address, conf)
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if answer, err := io.ReadAll(c); !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") || err != nil {
		t.Errorf("%q, %v", answer, err)
	}
}

// So do the streams of one HTTP/2 connection, of which there may be many.
func TestSlowStreams(t *testing.T) {
	address, conf := serving(t, 100*time.Millisecond)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	codes := make(chan int, 2*perSource)
	for range 2 * perSource {
		body, _ := io.Pipe() // nothing ever comes out of it
		go func() {
			defer body.Close()
			r, err := client.Post("https://"+address+"/inject", "application/json", body)
			if err != nil {
				codes <- 0 // the stream was reset, which ends it too
				return
			}
			r.Body.Close()
			codes <- r.StatusCode
		}()
	}
	late := time.After(patience)
	for range 2 * perSource {
		select {
		case code := <-codes:
			if code != 0 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests {
				t.Errorf("status %d", code)
			}
		case <-late:
			t.Fatal("slow streams do not end")
		}
	}
}

func TestGate(t *testing.T) {
	g := newGate(2)
	one, ok := g.try("a")
	two, also := g.try("a")
	if _, third := g.try("a"); !ok || !also || third {
		t.Error("two may pass", ok, also, third)
	}
	if other, ok := g.try("b"); !ok {
		t.Error("one source is in another's way")
	} else {
		other()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok := g.enter(ctx, "a"); ok {
		t.Error("a third one passes")
	}
	one()
	three, ok := g.enter(t.Context(), "a")
	if !ok {
		t.Fatal("no place though one left")
	}
	two()
	three()
	if len(g.sources) > 0 {
		t.Error("sources are remembered:", g.sources)
	}
}

// A body that is too large is refused as such.
func TestLargeBody(t *testing.T) {
	address, conf := serving(t, patience)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
	defer client.CloseIdleConnections()
	r, err := client.Post("https://"+address+"/inject", "application/json", bytes.NewReader(make([]byte, maxReview+1)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusRequestEntityTooLarge {
		t.Error(r.Status)
	}
}
