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
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
)

// serving runs a server on the loopback, where whoever dials chooses an address of
// 127.0.0.0/8.
func serving(t *testing.T) (address string, conf *tls.Config) {
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
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
}

// Whoever opens requests and does not go on sending them holds up nobody else.
func TestSlowRequestsHoldUpNobody(t *testing.T) {
	t.Parallel() // it waits for the slow ones
	address, conf := serving(t)
	var slow sync.WaitGroup
	ended := make(chan time.Duration, perSource)
	for range perSource {
		c, err := tls.DialWithDialer(dialer("127.0.0.9"), "tcp", address, conf)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := fmt.Fprintf(c, "POST /inject HTTP/1.1\r\nHost: example.com\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		slow.Go(func() {
			_, _ = io.ReadAll(c) // its answer, and the end of the connection
			ended <- time.Since(began)
		})
	}
	// One connection more than an address may have is closed.
	if c, err := tls.DialWithDialer(dialer("127.0.0.9"), "tcp", address, conf); err == nil {
		c.Close()
		t.Error("there is room for more connections of one address")
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DialContext: dialer("127.0.0.2").DialContext, ForceAttemptHTTP2: true}}
	began := time.Now()
	r, err := client.Post("https://"+address+"/inject", "application/json", strings.NewReader(review(`{"metadata":{"name":"web"}}`, false)))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(r.Body)
	r.Body.Close()
	if r.StatusCode != http.StatusOK || time.Since(began) > bodyBudget/2 {
		t.Errorf("%d %q after %s", r.StatusCode, text, time.Since(began))
	}
	slow.Wait()
	for range perSource {
		if took := <-ended; took > 2*bodyBudget {
			t.Errorf("a slow request lasted %s", took)
		}
	}
	client.CloseIdleConnections()
}

// Nor do the streams of one HTTP/2 connection, of which there may be many.
func TestSlowStreams(t *testing.T) {
	t.Parallel()
	address, conf := serving(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	codes := make(chan int, 2*perSource)
	began := time.Now()
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
	for range 2 * perSource {
		if code := <-codes; code != 0 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests {
			t.Errorf("status %d", code)
		}
	}
	if took := time.Since(began); took > 3*bodyBudget {
		t.Errorf("slow streams lasted %s", took)
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
	address, conf := serving(t)
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
