package zone

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/explain"
	"github.com/tombolo-mesh/tombolo/zone/agents"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

// podOf is a pod of app as a platform tells it.
func podOf(t testing.TB, app, name, ip string) *platform.Pod {
	t.Helper()
	spec := &mesh.Dataplane{Networking: mesh.Networking{Address: ip, TransparentProxying: &mesh.TransparentProxying{},
		Inbound: []mesh.Inbound{{Name: "http", Port: 8080, ServiceAddress: ip, ServicePort: 8080, Protocol: "http"}}}}
	r := mesh.Resource{Key: podKey(name), Spec: mustJSON(spec), Labels: map[string]string{mesh.LabelNamespace: "shop", mesh.LabelServiceAccount: app, mesh.LabelWorkload: app, "app": app}}
	labels, problems := mesh.ComputeLabels(r, spec, mesh.EnvKubernetes)
	if problems = append(problems, mesh.ValidateResource(r, spec)...); len(problems) > 0 {
		t.Fatal(problems)
	}
	r.Labels = labels
	return &platform.Pod{Resource: r, Spec: spec, UID: "u-" + name, Ready: true}
}

func podKey(name string) mesh.Key {
	return mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "east", Name: name + ".shop"}
}

func serviceOf(app string) *mesh.Resource {
	spec := &mesh.MeshService{Ports: []mesh.ServicePort{{Name: "http", Port: 80, TargetPort: &mesh.IntOrString{Int: 8080}, AppProtocol: "http"}}}
	spec.Selector.DataplaneLabels = &mesh.LabelSelector{MatchLabels: map[string]string{"app": app, mesh.LabelNamespace: "shop"}}
	r := mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "east", Name: app + ".shop"}, Spec: mustJSON(spec), Labels: map[string]string{mesh.LabelNamespace: "shop"}}
	r.Labels, _ = mesh.ComputeLabels(r, spec, mesh.EnvKubernetes)
	return &r
}

func tell(e *engine, in platform.Batch) func(b *batch) {
	return func(b *batch) { e.takePlatform(b, in) }
}

func kubeRig(t testing.TB) *rig {
	r := newRig(t, "east")
	r.e.cfg.env = mesh.EnvKubernetes
	return r
}

// hosts are the addresses behind a service now.
func (r *rig) hosts(app string) []string {
	var out []string
	r.e.world.View(func(w ir.Reader) {
		for _, h := range ir.LocalHosts(w, serviceOf(app).Key, 80) {
			out = append(out, h.Address)
		}
	})
	return out
}

func TestPodsArePresentByTheAPIServer(t *testing.T) {
	r := kubeRig(t)
	want := func(why string, hosts ...string) {
		t.Helper()
		if got := counted(r.e); r.e.census != got {
			t.Errorf("%s: %v are counted, there are %v", why, r.e.census, got)
		}
		if got := r.hosts("web"); !slices.Equal(got, hosts) {
			t.Errorf("%s: hosts %v, want %v", why, got, hosts)
		}
	}
	a, b := podOf(t, "web", "web-a", "10.1.0.1"), podOf(t, "web", "web-b", "10.1.0.2")
	service := serviceOf("web")
	_ = r.turn(tell(r.e, platform.Batch{Pods: map[mesh.Key]*platform.Pod{podKey("web-a"): a, podKey("web-b"): b},
		Resources: map[mesh.Key]*mesh.Resource{service.Key: service}, Addresses: map[mesh.Key][]string{service.Key: {"10.2.0.1"}}}))
	want("no agent is connected to this instance", "10.1.0.1", "10.1.0.2")
	if len(r.e.classes) > 0 {
		t.Error("configuration is compiled for proxies that are not here")
	}
	if o, ok := r.e.object(mesh.Key{Kind: mesh.KindWorkload, Mesh: "default", Zone: "east", Name: "web.shop"}); !ok || o.Labels[mesh.LabelNamespace] != "shop" {
		t.Error("no workload of its namespace")
	}
	var addresses []string
	r.e.world.View(func(w ir.Reader) { addresses = w.Addresses(service.Key) })
	if !slices.Equal(addresses, []string{"10.2.0.1"}) {
		t.Error("addresses:", addresses)
	}

	control := &agent{}
	joining := agents.Proxy{Resource: a.Resource, Spec: a.Spec, Instance: "i", Control: control, Named: true}
	stranger := joining
	stranger.Resource.Name = "other.shop"
	if err := r.e.refusal(stranger); status.Code(err) != codes.Unavailable {
		t.Error("a pod that is not known joined:", err)
	}
	_ = r.turn(func(b *batch) { r.e.join(b, joining) })
	want("joined, and its Envoy was not configured yet", "10.1.0.1", "10.1.0.2")
	if len(r.e.classes) != 1 {
		t.Error("classes:", len(r.e.classes))
	}

	_ = r.turn(func(b *batch) { r.e.leave(b, podKey("web-a"), "i", false) })
	want("its stream broke", "10.1.0.2")
	again := *a
	again.NotReady = nil
	_ = r.turn(tell(r.e, platform.Batch{Pods: map[mesh.Key]*platform.Pod{podKey("web-a"): &again}}))
	want("its stream broke, and the API server does not know yet", "10.1.0.2")
	_ = r.turn(r.late)
	want("it is ready all the same", "10.1.0.1", "10.1.0.2")

	down := *a
	down.NotReady = []string{"http"}
	_ = r.turn(tell(r.e, platform.Batch{Pods: map[mesh.Key]*platform.Pod{podKey("web-a"): &down}}))
	want("a port is not ready", "10.1.0.2")
	_ = r.turn(func(b *batch) { r.e.join(b, joining) })
	ends := *a
	ends.Draining = true
	_ = r.turn(tell(r.e, platform.Batch{Pods: map[mesh.Key]*platform.Pod{podKey("web-a"): &ends}}))
	want("it is being deleted", "10.1.0.2")
	_ = r.turn(tell(r.e, platform.Batch{Pods: map[mesh.Key]*platform.Pod{podKey("web-a"): &ends}}))

	later := &agent{}
	joining.Control = later
	_ = r.turn(func(b *batch) { joining.Instance = "j"; r.e.join(b, joining) })
	if control.terminating != 1 || later.terminating != 1 {
		t.Errorf("agents were told of the end: %d times the one that was there, %d times the one that came later", control.terminating, later.terminating)
	}
	want("its agent is back, and it is being deleted still", "10.1.0.2")
	next := *a
	next.UID = "another"
	_ = r.turn(tell(r.e, platform.Batch{Pods: map[mesh.Key]*platform.Pod{podKey("web-a"): &next}}))
	want("another pod has its name", "10.1.0.1", "10.1.0.2")
	if r.e.proxies[podKey("web-a")].control != nil {
		t.Error("the former pod's agent controls the new one")
	}
	_ = r.turn(tell(r.e, platform.Batch{Pods: map[mesh.Key]*platform.Pod{podKey("web-a"): nil, podKey("web-b"): nil}, Remember: map[string]uint64{"meshed/shop/web": 7}}))
	want("both are gone")

	_ = r.turn(tell(r.e, platform.Batch{Pods: map[mesh.Key]*platform.Pod{podKey("web-b"): b}}))
	r.restart()
	if len(r.e.proxies) != 0 {
		t.Error("pods are on disk")
	}
	if r.e.counters["meshed/shop/web"] != 7 {
		t.Error("numbers are not remembered")
	}
}

// counted are the proxies of an engine by presence.
func counted(e *engine) (n [presences]int) {
	for _, p := range e.proxies {
		n[p.presence]++
	}
	return n
}

// late lets every deadline of a lost proxy pass.
func (r *rig) late(b *batch) {
	for k := range r.e.liveness.leases {
		r.e.liveness.leases[k] = b.now.Add(-time.Second)
	}
	r.e.expire(b)
}

// BenchmarkPods is a start with 1,000 services of ten pods, and a change of one pod.
func BenchmarkPods(b *testing.B) {
	in := platform.Batch{Pods: map[mesh.Key]*platform.Pod{}, Resources: map[mesh.Key]*mesh.Resource{}, Addresses: map[mesh.Key][]string{}, Remember: map[string]uint64{}}
	for s := range 1000 {
		app := fmt.Sprint("s", s)
		service := serviceOf(app)
		in.Resources[service.Key] = service
		in.Addresses[service.Key] = []string{fmt.Sprintf("10.96.%d.%d", s/250, s%250)}
		in.Remember["meshed/shop/"+app] = uint64(s + 1)
		for i := range 10 {
			name := fmt.Sprint(app, "-", i)
			in.Pods[podKey(name)] = podOf(b, app, name, fmt.Sprintf("10.%d.%d.%d", s/250, s%250, i+1))
		}
	}
	b.Run("start", func(b *testing.B) {
		for b.Loop() {
			r := kubeRig(b)
			_ = r.turn(tell(r.e, in))
		}
	})
	b.Run("start with identities", func(b *testing.B) {
		for b.Loop() {
			r := kubeRig(b)
			_ = r.turn(r.push(identityOf(b, "default"), allowAll(b, "default")))
			_ = r.turn(tell(r.e, in))
		}
	})
	r := kubeRig(b)
	_ = r.turn(tell(r.e, in))
	b.Run("change", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			p := *in.Pods[podKey("s500-5")]
			p.NotReady = [][]string{nil, {"http"}}[i%2]
			_ = r.turn(tell(r.e, platform.Batch{Pods: map[mesh.Key]*platform.Pod{p.Resource.Key: &p}}))
		}
	})
}

// Of two resources of one key, one made by the platform and one that people wrote,
// theirs counts, whichever comes first and whichever ends.
func TestTwoSourcesOfOneKey(t *testing.T) {
	made := serviceOf("web")
	wrote := *made
	wrote.Spec = []byte(`{"selector":{"dataplaneLabels":{"matchLabels":{"app":"other","k8s.tombolo.io/namespace":"shop"}}},"ports":[{"port":81}]}`)
	is := func(r *rig) string {
		o, ok := r.e.object(made.Key)
		if !ok {
			return ""
		}
		return fmt.Sprint(o.Decoded.(*mesh.MeshService).Ports[0].Port)
	}
	one := func(res *mesh.Resource, authored bool) platform.Batch {
		return platform.Batch{Resources: map[mesh.Key]*mesh.Resource{made.Key: res}, Authored: authored}
	}
	const hides = "hides"
	for _, c := range []struct {
		what  string
		steps []platform.Batch
		want  []string // after each; with a word behind it if it hides the other
	}{
		{"made first", []platform.Batch{one(made, false), one(&wrote, true), one(nil, true), one(nil, false)}, []string{"80", "81 " + hides, "80", ""}},
		{"written first", []platform.Batch{one(&wrote, true), one(made, false), one(nil, true), one(nil, false)}, []string{"81", "81 " + hides, "80", ""}},
		{"the one that is made ends", []platform.Batch{one(made, false), one(&wrote, true), one(nil, false), one(nil, true)}, []string{"80", "81 " + hides, "81", ""}},
		{"ends twice", []platform.Batch{one(&wrote, true), one(nil, false), one(nil, true), one(nil, true)}, []string{"81", "81", "", ""}},
		{"changed", []platform.Batch{one(&wrote, true), one(made, false), one(&wrote, true), one(made, false)}, []string{"81", "81 " + hides, "81 " + hides, "81 " + hides}},
	} {
		r := kubeRig(t)
		for i, in := range c.steps {
			if err := r.turn(tell(r.e, in)); err != nil {
				t.Fatal(err)
			}
			got := is(r)
			if r.e.state().Outcomes[made.Key].Hides {
				got += " " + hides
			}
			if got != c.want[i] {
				t.Errorf("%s: after step %d %q, want %q", c.what, i, got, c.want[i])
			}
		}
	}
}

// ofTwoInstances is an instance of a zone that serves the agent of web-2, and another
// those of web-1 and web-3: it has classes for its own pods alone.
func ofTwoInstances(t *testing.T) *rig {
	t.Helper()
	r := kubeRig(t)
	pods := map[mesh.Key]*platform.Pod{}
	for _, name := range []string{"web-1", "web-2", "web-3"} {
		pods[podKey(name)] = podOf(t, "web", name, "10.0.0."+name[len(name)-1:])
	}
	r.turn(r.push(identityOf(t, "default"), allowAll(t, "default")), tell(r.e, platform.Batch{Pods: pods, Resources: map[mesh.Key]*mesh.Resource{serviceOf("web").Key: serviceOf("web")}}))
	mine := pods[podKey("web-2")].Resource
	r.turn(func(b *batch) {
		r.e.join(b, agents.Proxy{Resource: mine, Spec: decoded(t, mine).(*mesh.Dataplane), Instance: "i", Control: silent{}})
	})
	if n := len(r.e.classes); n != 1 {
		t.Fatal("classes:", n)
	}
	return r
}

// A plan is for the pods of all instances, and leaves them as they are.
func TestAPlanCountsPodsOfOtherInstances(t *testing.T) {
	r := ofTwoInstances(t)
	deny := put(resource(t, mesh.KindMeshTrafficPermission, "default", "", "deny", `{"rules":[{"default":{"deny":[{"spiffeID":{"type":"Exact","value":"spiffe://default.east.mesh.local/x"}}]}}]}`))
	before := r.trace()
	p := r.plan(deny)
	if p.Proxies != 3 || p.Affected != 3 || len(p.Effects) != 1 || len(p.Effects[0].Workloads) != 1 || p.Effects[0].Workloads[0].Proxies != 3 || len(p.Shared) > 0 {
		t.Errorf("%+v\n%s", p, said(p))
	}
	if r.trace() != before {
		t.Error("the plan left a trace")
	}
	if r.e.proxies[podKey("web-1")].class != nil {
		t.Error("a pod of another instance has a class now")
	}
}

// So is the reach of a policy, and what becomes of calls; a caller is explained by the
// instance that serves its agent.
func TestPodsOfOtherInstancesAreExplained(t *testing.T) {
	r := ofTwoInstances(t)
	for source, has := range map[string]bool{"web-1.shop": false, "web-2.shop": true, "web": true, "nobody": false} {
		_, _, err := r.e.source("default", source)
		if _, isProblem := errors.AsType[*explain.Problem](err); (err == nil) != has || isProblem != (source == "nobody") {
			t.Errorf("%s: %v", source, err)
		}
	}
	go r.e.run(t.Context())
	i := inspector{r.e}
	var reach explain.ZoneReach
	var l landing
	kind, _ := mesh.KindByName(mesh.KindMeshTrafficPermission)
	call := explain.Arriving{Service: serviceOf("web").Key, Port: 80}
	if err := i.whole(t.Context(), func(e *engine) { reach, l = e.reach(kind, allowAll(t, "default").Resource.Key), e.land(call, true) }); err != nil {
		t.Fatal(err)
	}
	if reach.Proxies != 3 || len(l.Instances) != 3 {
		t.Errorf("%+v, %d instances", reach, len(l.Instances))
	}
	for _, in := range l.Instances {
		if in.Compiled == nil || in.Identity == "" {
			t.Errorf("nothing is known of %s", in.Proxy)
		}
	}
}
