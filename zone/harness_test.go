package zone

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/identity"
	"github.com/tombolo-mesh/tombolo/identity/ca"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/xds/delta"
	"github.com/tombolo-mesh/tombolo/zone/agents"
	"github.com/tombolo-mesh/tombolo/zone/disk"
)

// recorder is a publisher that remembers the newest publication of each group.
type recorder struct {
	mu       sync.Mutex
	layers   map[string][]*delta.Set
	marks    map[string]int64
	groups   map[string]string
	own      map[string]*delta.Set
	log      []string
	progress map[string][]delta.Progress
	good     map[string]map[delta.Key]delta.Good
	refused  map[refusedVersion]bool
}

func newRecorder() *recorder {
	return &recorder{layers: map[string][]*delta.Set{}, marks: map[string]int64{}, groups: map[string]string{},
		own: map[string]*delta.Set{}, progress: map[string][]delta.Progress{},
		good: map[string]map[delta.Key]delta.Good{}, refused: map[refusedVersion]bool{}}
}

func (r *recorder) Publish(group string, mark int64, urgent bool, layers ...*delta.Set) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replaced(group, layers)
	r.layers[group], r.marks[group] = layers, mark
	r.log = append(r.log, fmt.Sprintf("%s urgent=%v", group, urgent))
}

// replaced keeps what a publication replaces or removes as the last good one, unless it was
// refused, as a server whose proxies answer at once.
func (r *recorder) replaced(group string, layers []*delta.Set) {
	for i, old := range r.layers[group] {
		if i >= len(layers) {
			break
		}
		for _, k := range old.Diff(layers[i]) {
			was := old.Get(k.TypeURL, k.Name)
			if was == nil || k.TypeURL == xds.EndpointType || r.refused[refusedVersion{k, was.Version}] {
				continue
			}
			if r.good[group] == nil {
				r.good[group] = map[delta.Key]delta.Good{}
			}
			r.good[group][k] = delta.Good{Resource: was, Mark: r.marks[group]}
		}
	}
}

// refusedVersion is one that some proxy said no to.
type refusedVersion struct {
	delta.Key
	version string
}

func (r *recorder) Assign(node, group string, own *delta.Set) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups[node], r.own[node] = group, own
}

func (r *recorder) Unassign(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.groups, node)
	delete(r.own, node)
}

func (r *recorder) Retire(group string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.layers, group)
}

func (r *recorder) AppendProgress(list []delta.Progress, group string) []delta.Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.progress[group]
	r.progress[group] = slices.DeleteFunc(slices.Clone(p), func(x delta.Progress) bool { return !x.Settled.IsZero() })
	return append(list, p...)
}

func (r *recorder) InSync(string) bool            { return true }
func (r *recorder) Rejections() []delta.Rejection { return nil }
func (r *recorder) Verdicts() []delta.Verdict     { return nil }
func (r *recorder) LastGood(group string) map[delta.Key]delta.Good {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.good[group]
}
func (r *recorder) Withhold(string, []delta.Rejection) {}

// rig is an engine whose loop the test turns itself.
type rig struct {
	t    testing.TB
	dir  string
	zone string
	file *disk.File
	out  *recorder
	e    *engine
	rev  mesh.Revision
	vips VIPRanges
}

func newRig(t testing.TB, zone string) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), zone: zone, vips: DefaultVIPRanges()}
	r.start()
	t.Cleanup(func() { _ = r.file.Close() })
	return r
}

func (r *rig) start() {
	r.t.Helper()
	file, err := disk.Open(disk.Config{Dir: r.dir, Zone: r.zone})
	if err != nil {
		r.t.Fatal(err)
	}
	r.file, r.out = file, newRecorder()
	r.e = r.engine(r.out)
	r.e.process(nil)
}

func (r *rig) engine(out publisher) *engine {
	r.t.Helper()
	e, err := newEngine(engineConfig{zone: r.zone, disk: r.file, delta: out, lease: DefaultLease, grace: DefaultGrace, doubt: DefaultDoubt,
		vips: r.vips, log: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

// restart ends the engine as a crash would, and starts another from its disk.
func (r *rig) restart() {
	r.t.Helper()
	if err := r.file.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.start()
}

// turn runs operations as one batch and returns the error of what global pushed.
func (r *rig) turn(ops ...func(b *batch)) error {
	var failed error
	var list []*op
	for _, run := range ops {
		list = append(list, &op{run: run, done: func(err error) {
			if err != nil {
				failed = err
			}
		}})
	}
	r.e.process(list)
	return failed
}

// push is an operation that applies changes from global.
func (r *rig) push(changes ...mesh.Change) func(b *batch) {
	return func(b *batch) {
		for i := range changes {
			r.rev++
			changes[i].Revision = r.rev
			changes[i].Resource.Revision = r.rev
		}
		r.e.take(b, position(r.rev), r.rev, changes)
	}
}

func (r *rig) join(dp mesh.Resource, notReady ...string) func(b *batch) {
	return func(b *batch) {
		r.e.join(b, agents.Proxy{Resource: dp, Spec: decoded(r.t, dp).(*mesh.Dataplane), Instance: "i-" + dp.Name,
			AgentVersion: "a", EnvoyVersion: "e", NotReady: notReady})
		r.e.warm(map[string]bool{nodeID(dp.Key): true})
	}
}

func decoded(t testing.TB, r mesh.Resource) mesh.Spec {
	t.Helper()
	spec, err := mesh.DecodeSpec(r.Kind, r.Spec)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// resource makes one as global would hand it out.
func resource(t testing.TB, kind mesh.KindName, meshName, zone, name, spec string, labels ...string) mesh.Resource {
	t.Helper()
	r := mesh.Resource{Key: mesh.Key{Kind: kind, Mesh: meshName, Zone: zone, Name: name}, Spec: []byte(spec), Labels: map[string]string{}}
	for i := 0; i < len(labels); i += 2 {
		r.Labels[labels[i]] = labels[i+1]
	}
	k, ok := mesh.KindByName(kind)
	if !ok {
		t.Fatal("unknown kind", kind)
	}
	s := k.New()
	if json.Unmarshal(r.Spec, s) != nil {
		return r // meant to be broken
	}
	computed, problems := mesh.ComputeLabels(r, s, mesh.EnvUniversal)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	r.Labels = computed
	return r
}

func put(r mesh.Resource) mesh.Change { return mesh.Change{Resource: r} }

func del(k mesh.Key) mesh.Change {
	return mesh.Change{Deleted: true, Resource: mesh.Resource{Key: k}}
}

// published is everything that a proxy was told, by type and name.
func published(out *recorder, p *proxy) map[string]string {
	all := map[string]string{}
	if p.class == nil || p.class.proxy == nil {
		return all
	}
	for _, set := range append(slices.Clone(out.layers[out.groups[p.node]]), out.own[p.node]) {
		for _, k := range (*delta.Set)(nil).Diff(set) {
			if k.Name == xds.BundlesSecret && len(p.class.proxy.Trust) == 0 {
				continue // the last ones stay, which a zone that starts anew cannot know
			}
			all[k.TypeURL+" "+k.Name] = string(set.Get(k.TypeURL, k.Name).Body)
		}
	}
	return all
}

// csr is a certificate request with a fresh key.
func csr(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", " ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// testAuthority is the bundle of a trust domain, the same for each call.
func testAuthority(t testing.TB, td string) string {
	t.Helper()
	if pem, ok := testAuthorities.Load(td); ok {
		return pem.(string)
	}
	domain, err := identity.ParseTrustDomain(td)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ca.NewSlots(domain, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	pem, _ := testAuthorities.LoadOrStore(td, string(b.PEM()))
	return pem.(string)
}

var testAuthorities sync.Map

func updateOf(r mesh.Resource) disk.Update { return disk.Update{PutResources: []mesh.Resource{r}} }
