package sync_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
	wireform "github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// peer is a zone written by hand, frame by frame.
type peer struct {
	t      testing.TB
	stream grpc.BidiStreamingClient[zonesyncv1.ZoneFrame, zonesyncv1.GlobalFrame]
	cancel func()
	lost   func()
}

func (f *fleet) peer(token string) *peer {
	f.t.Helper()
	return f.peerVia(token, f.options())
}

func (f *fleet) peerVia(token string, options []grpc.DialOption) *peer {
	f.t.Helper()
	conn, err := grpc.NewClient(f.address(), append(options, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(wireform.MaxMessageBytes)))...)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	f.t.Cleanup(cancel)
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	stream, err := zonesyncv1.NewZoneSyncClient(conn).Sync(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	return &peer{f.t, stream, cancel, func() { conn.Close() }}
}

func (p *peer) send(frames ...*zonesyncv1.ZoneFrame) {
	for _, frame := range frames {
		_ = p.stream.Send(frame)
	}
}

// welcome says hello with revision 0 and reads up to the end of the snapshot.
func (p *peer) welcome(zone string) *zonesyncv1.Welcome {
	p.t.Helper()
	p.send(hello(zone, 1))
	w := p.recv(func(f *zonesyncv1.GlobalFrame) bool { return f.GetWelcome() != nil }).GetWelcome()
	to := p.recv(func(f *zonesyncv1.GlobalFrame) bool { return f.GetSnapshot().GetLast() }).GetSnapshot().GetTo()
	p.send(ack(to.GetRevision()))
	return w
}

// recv reads until a frame that is wanted.
func (p *peer) recv(want func(*zonesyncv1.GlobalFrame) bool) *zonesyncv1.GlobalFrame {
	p.t.Helper()
	for {
		f, err := p.stream.Recv()
		if err != nil {
			p.t.Fatalf("the stream ended: %v", err)
		}
		if want(f) {
			return f
		}
	}
}

// ended reads until the stream ends and returns its status.
func (p *peer) ended() *status.Status {
	for {
		if _, err := p.stream.Recv(); err != nil {
			return status.Convert(err)
		}
	}
}

func hello(zone string, capabilities uint32) *zonesyncv1.ZoneFrame {
	return &zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Hello{Hello: &zonesyncv1.Hello{Zone: zone, Capabilities: capabilities, Instance: "by-hand"}}}
}

func ack(rev int64) *zonesyncv1.ZoneFrame {
	return &zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Ack{Ack: &zonesyncv1.Ack{Revision: rev}}}
}

func factsOf(sequence uint64, rs ...mesh.Resource) *zonesyncv1.ZoneFrame {
	facts := &zonesyncv1.Facts{To: &zonesyncv1.FactsPosition{Sequence: sequence}}
	for _, r := range rs {
		facts.Upserts = append(facts.Upserts, wireform.FromResource(r))
	}
	return &zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Facts{Facts: facts}}
}

// aTrust is a MeshTrust with a fresh authority.
func aTrust(t *testing.T, zone, name, domain string, more ...string) mesh.Resource {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: domain}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + strings.Join(more, "")
	spec, err := json.Marshal(mesh.MeshTrust{TrustDomain: domain, CABundles: []mesh.CABundle{{Type: "Pem", PEM: mesh.PEMBundle{Value: text}}}})
	if err != nil {
		t.Fatal(err)
	}
	return mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTrust, Mesh: "default", Zone: zone, Name: name}, Labels: map[string]string{}, Spec: spec}
}

func aPrivateKey(t *testing.T) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// The resources of tests.

func put(r mesh.Resource) store.Op { return store.Op{Resource: r} }
func del(k mesh.Key) store.Op      { return store.Op{Delete: true, Resource: mesh.Resource{Key: k}} }

func aMesh(name string) mesh.Resource {
	return mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: name}, Labels: map[string]string{}, Spec: []byte(`{}`)}
}

func anIdentity(meshName string) mesh.Resource {
	return mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshIdentity, Mesh: meshName, Name: "identity"}, Labels: map[string]string{},
		Spec: []byte(`{"selector":{"dataplane":{}},"provider":{"type":"Bundled"}}`)}
}

func aTimeout(name string, seconds int) mesh.Resource {
	return mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: name}, Labels: map[string]string{},
		Spec: fmt.Appendf(nil, `{"to":[{"targetRef":{"kind":"Mesh"},"default":{"idleTimeout":"%ds"}}]}`, seconds)}
}

func aService(zone, name string, healthy int) mesh.Resource {
	return mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: zone, Name: name}, Labels: map[string]string{"app": name},
		Spec:   fmt.Appendf(nil, `{"selector":{"dataplaneLabels":{"matchLabels":{"app":"x"}}},"ports":[{"port":80}],"identities":[{"type":"SpiffeID","value":"spiffe://default.%s.mesh.local/workload/%s"}]}`, zone, name),
		Status: fmt.Appendf(nil, `{"dataplaneProxies":{"connected":%d,"healthy":%d,"total":%d},"ports":[{"port":80,"healthy":%d}]}`, healthy, healthy, healthy, healthy)}
}

func aDataplane(zone, name string) mesh.Resource {
	return mesh.Resource{Key: mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: zone, Name: name}, Labels: map[string]string{"app": "x"},
		Spec: []byte(`{"networking":{"address":"10.0.0.1","inbound":[{"port":80}]}}`), Status: []byte(`{"connected":true}`)}
}
