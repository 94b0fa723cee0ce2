package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

type sdsClient struct {
	t         *testing.T
	stream    secretv3.SecretDiscoveryService_DeltaSecretsClient
	responses chan *discoveryv3.DeltaDiscoveryResponse
	ended     chan error
}

func dialSDS(t *testing.T, socket string) *sdsClient {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	stream, err := secretv3.NewSecretDiscoveryServiceClient(conn).DeltaSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := &sdsClient{t: t, stream: stream, responses: make(chan *discoveryv3.DeltaDiscoveryResponse, 100), ended: make(chan error, 1)}
	go func() { // ends with the stream
		for {
			r, err := stream.Recv()
			if err != nil {
				c.ended <- err
				return
			}
			c.responses <- r
		}
	}()
	return c
}

func (c *sdsClient) send(r *discoveryv3.DeltaDiscoveryRequest) {
	c.t.Helper()
	r.TypeUrl = secretType
	if err := c.stream.Send(r); err != nil {
		c.t.Fatal(err)
	}
}

func (c *sdsClient) next() *discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	select {
	case r := <-c.responses:
		if len(r.Resources) != 1 || r.Resources[0].Name != identitySecret || r.Nonce == "" {
			c.t.Fatalf("got %v", r)
		}
		return r
	case <-time.After(60 * time.Second):
		c.t.Fatal("no response")
		return nil
	}
}

func (c *sdsClient) nothing(why string) {
	c.t.Helper()
	select {
	case r := <-c.responses:
		c.t.Fatalf("%s: got %v", why, r)
	case <-time.After(100 * time.Millisecond):
	}
}

func TestSecretsOverDelta(t *testing.T) {
	log := &buffer{}
	s := newSecrets(slog.New(slog.NewTextHandler(log, nil)))
	set := func(chain string) {
		t.Helper()
		if err := s.set([]byte(chain), []byte("key of "+chain)); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(t.TempDir(), "sds.sock")
	listener, err := listenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Error("others may ask for the key:", info.Mode(), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})

	c := dialSDS(t, socket)
	c.send(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{identitySecret, "bundles"}})
	eventually(t, "a secret that is none is logged", func() bool { return log.count("secret=bundles") == 1 })
	c.nothing("before there is a certificate")
	set("one")
	first := c.next()
	set("two")
	set("three")
	c.nothing("while a response is unanswered")
	c.send(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: first.Nonce})
	third := c.next()
	if !strings.Contains(string(third.Resources[0].Resource.Value), "three") {
		t.Error("the newest must come, and only it")
	}
	c.send(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: "stale"})
	c.send(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: third.Nonce, ErrorDetail: &statuspb.Status{Code: 13, Message: "bad key"}})
	eventually(t, "the refusal is logged", func() bool { return log.count("bad key") > 0 })
	c.nothing("a refused secret is not sent again and again")
	if log.count("bad key") != 1 {
		t.Errorf("log: %s", log)
	}
	set("three")
	c.nothing("unchanged")
	set("four")
	fourth := c.next()

	again := dialSDS(t, socket) // after a reconnect
	again.send(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{identitySecret},
		InitialResourceVersions: map[string]string{identitySecret: fourth.Resources[0].Version}})
	again.nothing("it has that version")
	set("five")
	again.next()

	wrong := dialSDS(t, socket)
	if err := wrong.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: listenerURL}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-wrong.ended:
		if status.Code(err) != codes.InvalidArgument {
			t.Error(err)
		}
	case <-time.After(60 * time.Second):
		t.Error("another type is accepted")
	}
}

func TestSocketPath(t *testing.T) {
	if _, err := listenUnix("/" + strings.Repeat("x", 108)); err == nil || !strings.Contains(err.Error(), "shorter work dir") {
		t.Error(err)
	}
}
