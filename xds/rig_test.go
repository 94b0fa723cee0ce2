package xds_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tombolo-mesh/tombolo/identity"
	"github.com/tombolo-mesh/tombolo/identity/ca"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/xds/delta"
)

// rig runs real Envoys against the delta server with what this package builds.
type rig struct {
	t     *testing.T
	envoy string
	dir   string
	ads   *delta.Server
	cas   map[string]*ca.Authority
	trust []ir.TrustBundle
	mu    sync.Mutex
	mark  int64
	sets  map[string]*delta.Set // last class set by node
}

func newRig(t *testing.T, domains ...string) *rig {
	t.Helper()
	r := &rig{t: t, envoy: findEnvoy(t), dir: sockets(t), cas: map[string]*ca.Authority{}, sets: map[string]*delta.Set{}}
	for _, d := range domains {
		td, err := identity.ParseTrustDomain(d)
		must(t, err)
		a, err := ca.New(td, time.Now())
		must(t, err)
		r.cas[d] = a
		r.trust = append(r.trust, ir.TrustBundle{TrustDomain: d, PEM: string(identity.MarshalCertificates(a.Certificate()))})
	}
	r.ads = newDelta()
	l := r.listen("ads")
	s := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, r.ads)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return r
}

// sockets is a directory in which an Envoy of another user may make sockets.
func sockets(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "xds")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o777))
	return dir
}

// listen at a socket that every user and network namespace can reach.
func (r *rig) listen(name string) net.Listener {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	l, err := net.Listen("unix", path)
	must(r.t, err)
	must(r.t, os.Chmod(path, 0o777))
	return l
}

func newDelta() *delta.Server {
	return delta.New(delta.Config{
		Authorize:  func(_ context.Context, n *corev3.Node) (string, error) { return n.GetId(), nil },
		OnProgress: func(string, bool) {}, OnConnect: func(string, bool) {},
		Log: slog.New(slog.DiscardHandler),
	})
}

func findEnvoy(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("TOMBOLO_ENVOY"); path != "" {
		return path
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path
	}
	if path, err := filepath.Abs("../.cache/envoy/envoy"); err == nil {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	if os.Getenv("TOMBOLO_REQUIRE_ENVOY") != "" {
		t.Fatal("no envoy: run make test")
	}
	t.Skip("no envoy: run make test, or set TOMBOLO_ENVOY")
	return ""
}

// envoyProcess is one running Envoy with its identity served on a socket.
type envoyProcess struct {
	rig      *rig
	node     string
	admin    *http.Client
	identity *delta.Server
	log      string
}

// sds lets the delta server answer the secret discovery service.
type sds struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	server *delta.Server
}

func (s sds) DeltaSecrets(stream secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	return s.server.DeltaAggregatedResources(stream)
}

func (sds) StreamSecrets(secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	return status.Error(codes.Unimplemented, "incremental only")
}

// start runs an Envoy with an identity and publishes its configuration.
func (r *rig) start(node, spiffeID string, p *ir.Proxy, own *ir.Instance, endpoints ...*ir.EndpointSet) *envoyProcess {
	r.t.Helper()
	return r.startBy(nil, node, spiffeID, p, own, endpoints...)
}

// startBy runs an Envoy by the given command, for example as another user.
func (r *rig) startBy(by []string, node, spiffeID string, p *ir.Proxy, own *ir.Instance, endpoints ...*ir.EndpointSet) *envoyProcess {
	r.t.Helper()
	e := &envoyProcess{rig: r, node: node, identity: newDelta()}
	l := r.listen(node + ".sds")
	s := grpc.NewServer()
	secretv3.RegisterSecretDiscoveryServiceServer(s, sds{server: e.identity})
	go s.Serve(l)
	r.t.Cleanup(s.Stop)
	e.identity.Assign(node, "identity", nil)
	e.present(r.issue(spiffeID, spiffeID))
	r.publish(node, p, endpoints...)
	r.assign(node, p, own)

	e.log = filepath.Join(r.dir, node+".log")
	out, err := os.Create(e.log)
	must(r.t, err)
	config := filepath.Join(r.dir, node+".yaml")
	must(r.t, os.WriteFile(config, []byte(r.bootstrap(node)), 0o644))
	args := append(append([]string{}, by...), r.envoy, "-c", config, "--concurrency", "1", "--disable-hot-restart", "--drain-time-s", "2",
		"--log-level", "warn", "--file-flush-interval-msec", "100")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(r.t, cmd.Start())
	r.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if r.t.Failed() {
			text, _ := os.ReadFile(e.log)
			r.t.Logf("%s: %s", node, text)
		}
	})
	admin := filepath.Join(r.dir, node+".admin")
	e.admin = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", admin)
	}}}
	r.eventually(node+" ready", func() bool { return strings.HasPrefix(e.get("/ready"), "LIVE") })
	return e
}

func (r *rig) bootstrap(node string) string {
	h2 := `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}`
	return fmt.Sprintf(`
node: {id: %q, cluster: test}
admin: {address: {pipe: {path: %q}}}
bootstrap_extensions: [{name: envoy.bootstrap.internal_listener, typed_config: {"@type": type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener}}]
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: ads, retry_policy: {retry_back_off: {base_interval: 0.1s, max_interval: 1s}}}}]}
  lds_config: {ads: {}, resource_api_version: V3}
  cds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - {name: ads, type: STATIC, connect_timeout: 1s, %[3]s, load_assignment: {cluster_name: ads, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %[4]q}}}}]}]}}
  - {name: agent_sds, type: STATIC, connect_timeout: 1s, %[3]s, load_assignment: {cluster_name: agent_sds, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %[5]q}}}}]}]}}
`, node, filepath.Join(r.dir, node+".admin"), h2, filepath.Join(r.dir, "ads"), filepath.Join(r.dir, node+".sds"))
}

// publish builds and pushes a node's class, endpoints and trust.
func (r *rig) publish(node string, p *ir.Proxy, endpoints ...*ir.EndpointSet) {
	r.t.Helper()
	resources, err := xds.Build(p)
	must(r.t, err)
	for _, set := range endpoints {
		e, err := xds.BuildEndpoints(set)
		must(r.t, err)
		resources = append(resources, e)
	}
	b, err := xds.BuildBundles(r.trust)
	must(r.t, err)
	r.push(node, append(resources, b))
}

func (r *rig) push(node string, resources []*delta.Resource) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mark++
	r.sets[node] = delta.NewSet(resources)
	r.ads.Publish(node, r.mark, false, r.sets[node])
}

func (r *rig) assign(node string, p *ir.Proxy, own *ir.Instance) {
	r.t.Helper()
	resources, err := xds.BuildInstance(p, own)
	must(r.t, err)
	r.ads.Assign(node, node, delta.NewSet(resources))
}

// update publishes and waits for the node's ACK.
func (e *envoyProcess) update(p *ir.Proxy, endpoints ...*ir.EndpointSet) {
	e.rig.t.Helper()
	e.rig.publish(e.node, p, endpoints...)
	e.rig.eventually(e.node+" in sync", func() bool { return e.rig.ads.InSync(e.node) })
}

// present serves a certificate and key as the node's identity.
func (e *envoyProcess) present(cert tls.Certificate) {
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	must(e.rig.t, err)
	var chain []byte
	for _, der := range cert.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	bytes := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
	}
	body, err := proto.Marshal(&tlsv3.Secret{Name: xds.IdentitySecret, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: bytes(chain),
		PrivateKey:       bytes(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
	}}})
	must(e.rig.t, err)
	sum := sha256.Sum256(body)
	e.rig.mu.Lock()
	e.rig.mark++
	mark := e.rig.mark
	e.rig.mu.Unlock()
	e.identity.Publish("identity", mark, false, delta.NewSet([]*delta.Resource{{
		TypeURL: xds.SecretType, Name: xds.IdentitySecret, Version: hex.EncodeToString(sum[:]), Body: body,
	}}))
}

// issue signs a leaf for spiffeID with the authority of the domain of signer: a
// forged one when they differ.
func (r *rig) issue(spiffeID, signer string) tls.Certificate {
	r.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(r.t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(r.t, err)
	by, err := identity.ParseID(signer)
	must(r.t, err)
	authority := r.cas[by.TrustDomain().String()]
	var chain []byte
	if signer == spiffeID {
		chain, err = authority.Sign(csr, by, time.Hour, time.Now())
		must(r.t, err)
	} else {
		chain = r.forge(authority, spiffeID, key)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(r.t, err)
	cert, err := tls.X509KeyPair(chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	must(r.t, err)
	return cert
}

func (e *envoyProcess) get(path string) string {
	resp, err := e.admin.Get("http://admin" + path)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return string(text)
}

// stat reads one counter or gauge.
func (e *envoyProcess) stat(name string) string {
	for line := range strings.Lines(e.get("/stats?filter=^" + name + "$")) {
		if _, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			return value
		}
	}
	return ""
}

// eventually polls until ok; it fails the test after a minute.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			r.t.Fatalf("%s: not within a minute", what)
		case <-tick.C:
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
