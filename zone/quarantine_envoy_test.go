package zone

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	sidecaragent "github.com/tombolo-mesh/tombolo/agent"
	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/internal/ports"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/xds/delta"
)

// real is a zone whose proxies are agents and Envoys: web calls api.
type real struct {
	*live
	spoiler       *spoiler
	dir, envoy    string
	key           token.Key
	inbound, call int
	apps          int
	readiness     string // address of the agent that is started next, or empty
}

// spoiler stands between the engine and the xDS server. Our validation knows better
// than to let a user write what Envoy refuses of most types: so it makes the first new
// version of a resource one that Envoy refuses, under the version that the engine knows.
type spoiler struct {
	publisher
	mu     sync.Mutex
	key    delta.Key
	known  map[string]bool // versions before, or nil: spoil nothing
	bad    string
	before map[*delta.Set]*delta.Set
}

func (s *spoiler) Publish(group string, mark int64, urgent bool, layers ...*delta.Set) {
	out := make([]*delta.Set, len(layers))
	for i, l := range layers {
		out[i] = s.spoilt(l)
	}
	s.publisher.Publish(group, mark, urgent, out...)
}

func (s *spoiler) Assign(node, group string, own *delta.Set) {
	s.publisher.Assign(node, group, s.spoilt(own))
}

// next spoils the next new version of a resource.
func (s *spoiler) next(k delta.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := map[string]bool{}
	for set := range s.before {
		if r := set.Get(k.TypeURL, k.Name); r != nil {
			known[r.Version] = true
		}
	}
	s.key, s.known, s.bad = k, known, ""
}

func (s *spoiler) spoilt(set *delta.Set) *delta.Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	if set == nil {
		return nil
	}
	if out := s.before[set]; out != nil {
		return out
	}
	out := set
	if r := set.Get(s.key.TypeURL, s.key.Name); r != nil && s.known != nil && !s.known[r.Version] && (s.bad == "" || s.bad == r.Version) {
		s.bad = r.Version
		var all []*delta.Resource
		for _, k := range (*delta.Set)(nil).Diff(set) {
			one := set.Get(k.TypeURL, k.Name)
			if k == s.key {
				one = refusedByEnvoy(one)
			}
			all = append(all, one)
		}
		out = delta.NewSet(all)
	}
	s.before[set] = out
	return out
}

// refusedByEnvoy is a resource with an extension that no Envoy has.
func refusedByEnvoy(r *delta.Resource) *delta.Resource {
	none := &anypb.Any{TypeUrl: xds.RouteType}
	change := func(m proto.Message, edit func()) []byte {
		if err := proto.Unmarshal(r.Body, m); err != nil {
			panic(err)
		}
		edit()
		body, err := proto.Marshal(m)
		if err != nil {
			panic(err)
		}
		return body
	}
	next := *r
	switch r.TypeURL {
	case xds.ClusterType:
		var m clusterv3.Cluster
		next.Body = change(&m, func() {
			m.TransportSocket = &corev3.TransportSocket{Name: "none", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: none}}
		})
	case xds.ListenerType:
		var m listenerv3.Listener
		next.Body = change(&m, func() {
			for _, c := range m.FilterChains {
				c.Filters = append([]*listenerv3.Filter{{Name: "none", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: none}}}, c.Filters...)
			}
		})
	case xds.ExtensionType:
		var m corev3.TypedExtensionConfig
		next.Body = change(&m, func() { m.TypedConfig = none })
	default:
		panic("nothing to refuse of " + r.TypeURL)
	}
	return &next
}

func startReal(t *testing.T) *real {
	t.Helper()
	r := &real{dir: t.TempDir(), envoy: realEnvoy(t), inbound: ports.Free(t), call: ports.Free(t)}
	r.live = startLive(t, r.dir)
	r.spoiler = &spoiler{publisher: r.parts.engine.cfg.delta, before: map[*delta.Set]*delta.Set{}}
	if err := r.parts.engine.do(nil, func(*batch) { r.parts.engine.cfg.delta = r.spoiler }); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.key, err = token.GenerateKey(token.KeyID(token.Dataplane, 1)); err != nil {
		t.Fatal(err)
	}
	public, err := r.key.Public().MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	r.push(identityOf(t, "default"), r.permission("workload/web"),
		put(resource(t, mesh.KindSecret, "default", "", token.PublicKeyName(token.Dataplane, 1), jsonOf(t, mesh.Secret{Data: public}))))
	return r
}

func realEnvoy(t *testing.T) string {
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

// permission lets a path of the mesh's identities call api, and others besides.
func (r *real) permission(paths ...string) mesh.Change {
	var allow []string
	for _, p := range paths {
		allow = append(allow, fmt.Sprintf(`{"spiffeID":{"type":"Exact","value":"spiffe://default.east.mesh.local/%s"}}`, p))
	}
	return put(resource(r.t, mesh.KindMeshTrafficPermission, "default", "", "api", fmt.Sprintf(
		`{"targetRef":{"kind":"Dataplane","labels":{"tombolo.io/workload":"api"}},"rules":[{"default":{"allow":[%s]}}]}`, strings.Join(allow, ","))))
}

// timeout writes the policy of all timeouts.
func (r *real) timeout(side, conf string) mesh.Change {
	return put(resource(r.t, mesh.KindMeshTimeout, "default", "", "timeout", fmt.Sprintf(`{"targetRef":{"kind":"Mesh"},%s:%s}`, side, conf)))
}

// proxy starts an agent with its Envoy, and waits until it serves.
func (r *real) proxy(name, workload, manifest string) {
	r.t.Helper()
	dir := r.t.TempDir()
	raw, err := r.key.Sign(token.Claims{ID: name, Use: token.Dataplane, Mesh: "default", Workload: workload, Issued: time.Now(), Expires: time.Now().Add(time.Hour)})
	if err != nil {
		r.t.Fatal(err)
	}
	manifest = fmt.Sprintf("type: Dataplane\nmesh: default\nname: %s\nlabels: {%s: %s}\n%s", name, mesh.LabelWorkload, workload, manifest)
	for file, text := range map[string]string{"token": raw, "dp.yaml": manifest} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	work, err := os.MkdirTemp("", "zone-test-") // t.TempDir is too long for a socket
	if err != nil {
		r.t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		r.t.Fatal(err)
	}
	a, err := sidecaragent.New(sidecaragent.Config{Dataplane: filepath.Join(dir, "dp.yaml"), TokenFile: filepath.Join(dir, "token"),
		ZoneAddress: strings.TrimPrefix(r.conn.Target(), "passthrough:///"), ZoneCA: filepath.Join(r.dir, "zone-ca.pem"), ReadinessAddress: r.readiness, Envoy: r.envoy, WorkDir: work,
		Concurrency: 1, DrainTime: time.Second, EnvoyOutput: log, Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			fmt.Fprintln(log, "agent:", err)
		}
	}()
	r.t.Cleanup(func() {
		cancel()
		<-done
		_ = log.Close()
		_ = os.RemoveAll(work)
		if r.t.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			r.t.Logf("%s:\n%s", name, text[max(0, len(text)-4000):])
		}
	})
	eventually(r.t, name+" is ready", func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, "log"))
		return strings.Contains(string(text), "msg=ready")
	})
}

// api starts one more instance, which answers with its name.
func (r *real) api(name string) {
	r.t.Helper()
	r.apps++
	l := ports.Listen(r.t)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })}
	go func() { _ = server.Serve(l) }()
	r.t.Cleanup(func() { _ = server.Close() })
	r.proxy(name, "api", fmt.Sprintf("networking:\n  address: 127.77.0.%d\n  inbound: [{name: http, port: %d, serviceAddress: 127.0.0.1, servicePort: %s, protocol: http}]\n",
		r.apps, r.inbound, strings.TrimPrefix(l.Addr().String(), "127.0.0.1:")))
}

// web starts one more caller and gives the address at which it calls api.
func (r *real) web(name string, at int) string {
	r.t.Helper()
	address := fmt.Sprintf("127.78.0.%d", at)
	r.proxy(name, "web", fmt.Sprintf("networking:\n  address: %s\n  outbound: [{address: %s, port: %d, backendRef: {kind: MeshService, name: api, port: %d}}]\n",
		address, address, r.call, r.inbound))
	return fmt.Sprintf("http://%s:%d/", address, r.call)
}

func get(url string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

// traffic calls without pause, on one connection and on new ones, until the returned
// function is called, which sees to it that there were enough calls after all else, and
// says what did not succeed.
func (r *real) traffic(url string) (stop func() (failures []string)) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var calls atomic.Int64
	var failures []string
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ; ctx.Err() == nil; <-tick.C {
			if calls.Load()%2 == 0 {
				http.DefaultClient.CloseIdleConnections()
			}
			if _, err := get(url); err != nil {
				failures = append(failures, fmt.Sprint(time.Now().Format(time.StampMilli), " ", err))
			}
			calls.Add(1)
		}
	})
	r.t.Cleanup(cancel)
	return func() []string {
		enough := calls.Load() + 20
		eventually(r.t, "20 calls more", func() bool { return calls.Load() >= enough })
		cancel()
		wg.Wait()
		return failures
	}
}

func (r *real) refusals() []problem {
	var out []problem
	if err := r.parts.engine.do(nil, func(*batch) { out = r.parts.engine.problems() }); err != nil {
		r.t.Fatal(err)
	}
	return slices.DeleteFunc(out, func(p problem) bool { return !strings.HasPrefix(p.reason, refusedByProxy) })
}

// TestRealEnvoysRefuse: of each type a version that real Envoys refuse, under traffic:
// it is attributed and quarantined, who runs and who starts has the last good one, other
// changes flow past it, it is tried again when its inputs change, and no request fails.
func TestRealEnvoysRefuse(t *testing.T) {
	r := startReal(t)
	r.api("api-1")
	web := r.web("web-1", 1)
	eventually(t, "web calls api", func() bool { body, err := get(web); return err == nil && body == "api-1" })
	cluster := fmt.Sprintf("kri_msvc_default_east__api_%d", r.inbound)
	other := 0
	for i, c := range []struct {
		name        string
		key         delta.Key
		to          func(n int) mesh.Change // changes the resource
		kind        mesh.KindName           // of the policy at fault
		quarantined bool
	}{
		{"a cluster", delta.Key{TypeURL: xds.ClusterType, Name: cluster},
			func(n int) mesh.Change {
				return r.timeout(`"to"`, fmt.Sprintf(`[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":"%ds"}}]`, 3+n))
			},
			mesh.KindMeshTimeout, true},
		{"an outbound listener", delta.Key{TypeURL: xds.ListenerType, Name: xds.OutboundListenerName("127.78.0.1", uint32(r.call))},
			func(n int) mesh.Change {
				return r.timeout(`"to"`, fmt.Sprintf(`[{"targetRef":{"kind":"Mesh"},"default":{"http":{"requestHeadersTimeout":"%ds"}}}]`, 3+n))
			},
			mesh.KindMeshTimeout, true},
		{"a permission", delta.Key{TypeURL: xds.ExtensionType, Name: xds.PermissionName("http")},
			func(n int) mesh.Change { // lets more in each time: what lets fewer in is never held back
				return r.permission(append([]string{"workload/web"}, []string{"workload/a", "workload/b", "workload/c"}[:n+1]...)...)
			},
			mesh.KindMeshTrafficPermission, true},
		{"a listener of its own", delta.Key{TypeURL: xds.ListenerType, Name: xds.InboundName("http")},
			func(n int) mesh.Change {
				return r.timeout(`"rules"`, fmt.Sprintf(`[{"default":{"http":{"requestHeadersTimeout":"%ds"}}}]`, 3+n))
			},
			mesh.KindMeshTimeout, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			stop := r.traffic(web)
			r.push(c.to(0))
			eventually(t, "the first is settled", func() bool { return len(r.refusals()) == 0 && r.settled() })
			r.spoiler.next(c.key)
			r.push(c.to(1))
			var said []problem
			eventually(t, "the refusal is known", func() bool {
				said = r.refusals()
				return len(said) > 0 && said[0].quarantined == c.quarantined
			})
			if p := said[0]; p.key.Kind != c.kind || p.path == "" || !strings.Contains(p.reason, "envoy.config.route.v3.RouteConfiguration") {
				t.Errorf("%s %s: %s", p.key, p.path, p.reason)
			}
			t.Logf("%s %s: %s", said[0].key, said[0].path, said[0].reason)

			// Beside it others change, and who starts is served.
			other++
			rev := r.push(put(resource(t, mesh.KindMeshTimeout, "default", "", "beside", fmt.Sprintf(
				`{"targetRef":{"kind":"Mesh"},"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"requestTimeout":"%ds"}}}]}`, 30+other))))
			eventually(t, "another change is done", func() bool { return r.done(rev) })
			late := ""
			if c.quarantined {
				late = r.web(fmt.Sprint("late-", i), 10+i)
				r.api(fmt.Sprint("api-late-", i))
				eventually(t, "the late caller is served", func() bool { _, err := get(late); return err == nil })
			}
			r.push(c.to(2))
			eventually(t, "tried again, and taken", func() bool { return len(r.refusals()) == 0 && r.settled() })
			if c.quarantined { // one that never had a permission takes no calls before
				eventually(t, "the late instance takes calls", func() bool { body, err := get(web); return err == nil && body == fmt.Sprint("api-late-", i) })
			}
			if failures := stop(); len(failures) > 0 {
				t.Errorf("%d requests failed: %s", len(failures), failures)
			}
		})
	}
}

// TestRealEnvoyRefusesAtItsStart: an instance that starts and refuses its permission
// starts its application, and is not ready, which is what decides for a pod, until it
// has one that it takes. What it refuses then changes nothing of that.
func TestRealEnvoyRefusesAtItsStart(t *testing.T) {
	r := startReal(t)
	for name, protocol := range map[string]string{"http": "http", "tcp": "tcp"} {
		t.Run(name, func(t *testing.T) {
			r.spoiler.next(delta.Key{TypeURL: xds.ExtensionType, Name: xds.PermissionName(name)})
			r.readiness = fmt.Sprintf("127.0.0.1:%d", ports.Free(t))
			answers := func(path string) (string, error) { return get("http://" + r.readiness + path) }
			r.proxy("api-"+name, "api", fmt.Sprintf("networking:\n  address: 127.77.1.1\n  inbound: [{name: %s, port: %d, serviceAddress: 127.0.0.1, servicePort: 9, protocol: %s}]\n",
				name, ports.Free(t), protocol))
			eventually(t, "the refusal is known", func() bool { return len(r.refusals()) == 1 })
			if _, err := answers("/started"); err != nil {
				t.Errorf("the application must start: %v", err)
			}
			if _, err := answers("/ready"); err == nil || !strings.Contains(err.Error(), "envoy refuses "+xds.PermissionName(name)) {
				t.Errorf("it is ready: %v", err)
			}
			r.push(r.permission("workload/web", "workload/"+name))
			eventually(t, "it is ready with one that it takes", func() bool { _, err := answers("/ready"); return err == nil })
			r.spoiler.next(delta.Key{TypeURL: xds.ExtensionType, Name: xds.PermissionName(name)})
			r.push(r.permission("workload/web", "workload/"+name, "workload/more"))
			eventually(t, "another refusal is known", func() bool { return len(r.refusals()) > 0 })
			if _, err := answers("/ready"); err != nil {
				t.Errorf("what it has from before serves: %v", err)
			}
			r.push(r.permission("workload/web"))
			eventually(t, "all is as before", func() bool { return len(r.refusals()) == 0 && r.settled() })
		})
	}
}

// settled says that all proxies have everything.
func (r *real) settled() bool {
	all := true
	if err := r.parts.engine.do(nil, func(*batch) {
		for _, p := range r.parts.engine.proxies {
			all = all && r.parts.xds.InSync(p.node)
		}
	}); err != nil {
		r.t.Fatal(err)
	}
	return all
}

// done says that a change reached somebody, and that nobody is behind with it.
func (r *real) done(rev mesh.Revision) bool {
	for _, x := range r.parts.engine.tracker.Report().Changes {
		if x.Revision == int64(rev) {
			return x.SettleMicros > 0 && x.Done > 0 && x.Behind == 0
		}
	}
	return false
}
