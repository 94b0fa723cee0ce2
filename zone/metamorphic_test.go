package zone

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/internal/raced"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/xds/delta"
	zonesync "github.com/tombolo-mesh/tombolo/zone/sync"
)

var (
	metaSeeds = flag.Int("meta.seeds", raced.Size(2, 4), "random histories to play")
	metaSteps = flag.Int("meta.steps", raced.Size(30, 50), "batches of each history")
	metaFrom  = flag.Uint64("meta.from", 1, "first seed")
)

func position(rev mesh.Revision) zonesync.Position {
	return zonesync.Position{Revision: rev, Digest: fmt.Sprint("d", rev)}
}

// After any history, what proxies are configured with is what a zone that starts
// from the disk would compile, byte for byte, and so are the facts.
func TestIncrementalEqualsFromScratch(t *testing.T) {
	var had counts
	for i := range *metaSeeds {
		seed := *metaFrom + uint64(i)
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			h := newHistory(t, seed, 7)
			for step := range *metaSteps {
				h.step()
				if !h.same(step) {
					return
				}
			}
			had.add(h.counts)
		})
	}
	t.Logf("%+v", had)
	if had.compared == 0 || had.refusals == 0 || had.held == 0 || had.promoted == 0 || had.returned == 0 {
		t.Errorf("there is something that no history had: %+v", had)
	}
}

// counts says that histories had what they are for.
type counts struct {
	compared      int // resources
	refusals      int
	held          int // quarantines in force after a step
	promoted      int // staged changes that reached everybody
	returned      int // staged changes whose return was compared with what was before
	refusedStages int // of returned, those that a proxy refused
}

func (c *counts) add(x counts) {
	c.compared, c.refusals, c.held = c.compared+x.compared, c.refusals+x.refusals, c.held+x.held
	c.promoted, c.returned, c.refusedStages = c.promoted+x.promoted, c.returned+x.returned, c.refusedStages+x.refusedStages
}

// history is a random one.
type history struct {
	*rig
	counts
	rnd  *rand.Rand
	last string
	// store is what global's holds for the zone, staged what it has in place of that.
	store, staged map[mesh.Key]mesh.Resource
	// heard is what an engine's facts came to, change by change.
	heard map[mesh.Key]mesh.Resource
	of    *facts
}

// listen takes what facts have changed since the last time.
func (h *history) listen() {
	if h.of != h.e.facts {
		h.of, h.heard = h.e.facts, map[mesh.Key]mesh.Resource{}
	}
	for _, c := range h.of.Facts() {
		if c.Deleted {
			delete(h.heard, c.Resource.Key)
		} else {
			h.heard[c.Resource.Key] = c.Resource
		}
	}
}

func newHistory(t testing.TB, seed, stream uint64) *history {
	return &history{rig: newRig(t, "east"), rnd: rand.New(rand.NewPCG(seed, stream)), store: map[mesh.Key]mesh.Resource{}}
}

func (h *history) pick(options ...string) string { return options[h.rnd.IntN(len(options))] }

func (h *history) step() {
	h.t.Helper()
	if h.rnd.IntN(25) == 0 {
		h.last = "restart"
		h.restart()
		return
	}
	if h.rnd.IntN(8) == 0 {
		h.rollout()
		return
	}
	h.last = ""
	var ops []func(b *batch)
	var changes []mesh.Change
	for range 1 + h.rnd.IntN(4) {
		op, c := h.event()
		if op != nil {
			ops = append(ops, op)
		}
		changes = append(changes, h.writable(c)...)
	}
	if h.rnd.IntN(3) == 0 {
		if op := h.verdict(); op != nil {
			ops = append(ops, op)
		}
	}
	if len(changes) > 0 {
		if h.rnd.IntN(12) == 0 { // everything anew, as after a restore at global
			h.last += " snapshot"
			ops = append(ops, h.snapshot(changes))
		} else {
			ops = append(ops, h.push(changes...))
		}
	}
	if err := h.turn(ops...); err != nil {
		h.t.Fatal(err)
	}
}

// snapshot replaces what global pushed by about half of it, and the changes.
func (h *history) snapshot(changes []mesh.Change) func(b *batch) {
	return func(b *batch) {
		var all []mesh.Change
		for _, k := range sortedKeys(h.e.synced) {
			o, ok := h.e.object(k)
			if over, staged := h.staged[k]; staged {
				all = append(all, put(over))
			} else if ok && h.rnd.IntN(2) == 0 {
				all = append(all, mesh.Change{Resource: o.Resource})
			} else {
				all = append(all, del(k))
			}
		}
		b.must.ReplaceResources = true
		h.push(append(all, changes...)...)(b)
	}
}

// verdict is a proxy's word on something that its class has: that it refuses it,
// or, of what is in quarantine, that it takes it after all.
func (h *history) verdict() func(b *batch) {
	var all []delta.Verdict
	for _, id := range sorted(h.e.quarantines) {
		if q := h.e.quarantines[id]; h.e.classes[id] != nil && h.rnd.IntN(3) == 0 {
			x := q.Refused[h.rnd.IntN(len(q.Refused))]
			all = append(all, accepted(id, &x))
		}
	}
	if len(all) == 0 || h.rnd.IntN(2) == 0 {
		return h.refuse(func(string, *delta.Resource) bool { return true })
	}
	v := all[h.rnd.IntN(len(all))]
	h.last += " accepted(" + v.Resource + ")"
	return func(b *batch) { h.e.judge(b, []delta.Verdict{v}) }
}

func accepted(group string, x *refusal) delta.Verdict {
	return delta.Verdict{Group: group, Accepted: true, Rejection: delta.Rejection{TypeURL: x.TypeURL, Resource: x.Name, Version: x.Version}}
}

// refuse is a proxy's no to something that it was given and that may be refused.
func (h *history) refuse(may func(node string, x *delta.Resource) bool) func(b *batch) {
	var all []delta.Verdict
	for _, k := range sortedKeys(h.e.proxies) {
		p := h.e.proxies[k]
		if p.class == nil || p.class.set == nil {
			continue
		}
		for _, k := range (*delta.Set)(nil).Diff(p.class.set) {
			if x := p.class.set.Get(k.TypeURL, k.Name); may(p.node, x) {
				all = append(all, delta.Verdict{Group: p.class.ir.ID, Rejection: delta.Rejection{Node: p.node, TypeURL: k.TypeURL, Resource: k.Name, Version: x.Version, Reason: "no"}})
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	v := all[h.rnd.IntN(len(all))]
	h.last += " refused(" + v.Resource + ")"
	h.refusals++
	h.out.refused[refusedVersion{delta.Key{TypeURL: v.TypeURL, Name: v.Resource}, v.Version}] = true
	return func(b *batch) { h.e.judge(b, []delta.Verdict{v}) }
}

func (h *history) event() (func(b *batch), []mesh.Change) {
	m := h.pick("default", "default", "default", "other")
	name := h.pick("web-1", "web-2", "api-1", "api-2", "db-1", "in-1")
	key := mesh.Key{Kind: mesh.KindDataplane, Mesh: m, Zone: "east", Name: name}
	say := func(what string) { h.last += " " + what + "(" + m + "/" + name + ")" }
	switch h.rnd.IntN(16) {
	case 0, 1, 2, 3:
		say("join")
		return h.join(h.dataplane(m, name), h.readiness()...), nil
	case 4:
		say("leave")
		clean := h.rnd.IntN(2) == 0
		return func(b *batch) {
			if p := h.e.proxies[key]; p != nil {
				p.streams = 1
			}
			h.e.leave(b, key, "i-"+name, clean)
		}, nil
	case 5:
		say("health")
		ready := h.readiness()
		return func(b *batch) { h.e.health(b, key, "i-"+name, ready) }, nil
	case 6:
		say("drain")
		return func(b *batch) {
			if p := h.e.proxies[key]; p != nil {
				p.draining = true
				h.e.dirty[p.unit] = true
			}
		}, nil
	case 7:
		say("expire")
		return func(b *batch) {
			if p := h.e.proxies[key]; p != nil && p.presence != present {
				h.e.forget(b, p)
			}
		}, nil
	case 8:
		h.last += " files"
		var files []mesh.Resource
		for _, n := range []string{"web", "shop"} {
			if h.rnd.IntN(2) == 0 {
				files = append(files, resource(h.t, mesh.KindMeshService, m, "east", n,
					h.pick(`{"selector":{"dataplaneLabels":{"matchLabels":{"tier":"front"}}},"ports":[{"port":80,"targetPort":8080,"appProtocol":"http"}]}`,
						`{"selector":{"dataplaneRef":{"name":"web-1"}},"ports":[{"port":8080,"appProtocol":"http"}]}`)))
			}
		}
		return func(b *batch) { h.e.takeFiles(b, files) }, nil
	case 9, 10:
		return nil, h.remote(m)
	default:
		return nil, h.policy(m)
	}
}

func (h *history) readiness() []string {
	return [][]string{nil, nil, {"http"}, {"http", "tcp"}}[h.rnd.IntN(4)]
}

func (h *history) dataplane(m, name string) mesh.Resource {
	workload := map[byte]string{'w': "web", 'a': "api", 'd': "db", 'i': "gate"}[name[0]]
	n := int(name[len(name)-1] - '0')
	address := fmt.Sprintf("10.1.%d.%d", n, name[0]-'a')
	if name[0] == 'i' {
		return resource(h.t, mesh.KindDataplane, m, "east", name, fmt.Sprintf(
			`{"networking":{"address":%q,"listeners":[{"type":"ZoneIngress","name":"main","port":%s}]}}`, address, h.pick("10001", "10002")), mesh.LabelWorkload, workload)
	}
	in := h.pick(`{"name":"http","port":8080,"protocol":"http"}`, `{"name":"http","port":8080,"protocol":"http"},{"name":"tcp","port":9090,"protocol":"tcp"}`,
		`{"name":"tcp","port":9090,"protocol":"tcp"}`, `{"name":"http","port":8080,"servicePort":80,"protocol":"grpc","state":"NotReady"}`)
	out := h.pick(``, `{"port":20001,"backendRef":{"kind":"MeshService","name":"api","port":8080}}`,
		`{"port":20001,"backendRef":{"kind":"MeshMultiZoneService","name":"all","port":8080}},{"port":20002,"backendRef":{"kind":"MeshService","name":"db","port":9090}}`,
		`{"port":20003,"backendRef":{"kind":"MeshService","labels":{"kuma.io/display-name":"api","kuma.io/zone":"west"},"port":8080}},{"port":20004,"backendRef":{"kind":"MeshService","name":"shop","port":80}}`)
	return resource(h.t, mesh.KindDataplane, m, "east", name, fmt.Sprintf(`{"networking":{"address":%q,"inbound":[%s],"outbound":[%s]}}`, address, in, out),
		mesh.LabelWorkload, workload, "tier", h.pick("front", "front", "back"))
}

// remote is what other zones tell.
func (h *history) remote(m string) []mesh.Change {
	zone := h.pick("west", "south")
	td := m + "." + zone + ".mesh.local"
	h.last += " remote(" + m + "/" + zone + ")"
	service := resource(h.t, mesh.KindMeshService, m, zone, h.pick("api", "db"), fmt.Sprintf(
		`{"selector":{"dataplaneLabels":{"matchLabels":{"x":"y"}}},"ports":[{"port":8080,"appProtocol":%q}],"identities":[{"type":"SpiffeID","value":"spiffe://%s/workload/api"}],"state":%q}`,
		h.pick("http", "tcp"), td, h.pick("Available", "Available", "Unavailable")), "team", h.pick("a", "b"))
	service.Status = []byte(h.pick(`{"ports":[{"port":8080,"healthy":2}]}`, `{"ports":[{"port":8080,"healthy":0}]}`, `{"ports":[{"port":8080,"healthy":5}]}`))
	address := resource(h.t, mesh.KindMeshZoneAddress, m, zone, "in-main", h.pick(`{"address":"192.0.2.1","port":10001}`, `{"address":"192.0.2.2","port":10001}`))
	change := func(r mesh.Resource) mesh.Change {
		if h.rnd.IntN(4) == 0 {
			return del(r.Key)
		}
		return put(r)
	}
	out := []mesh.Change{change(service), change(address)}
	if h.rnd.IntN(2) == 0 {
		out = append(out, change(resource(h.t, mesh.KindMeshTrust, m, zone, "t", fmt.Sprintf(`{"trustDomain":%q,"caBundles":[{"type":"Pem","pem":{"value":%q}}]}`, td, h.authority(td)))))
	}
	return out
}

// policy is what people author.
func (h *history) policy(m string) []mesh.Change {
	kind, name, spec := mesh.KindMeshTrafficPermission, h.pick("p1", "p2", "p3"), ""
	target := h.pick(`{"kind":"Mesh"}`, `{"kind":"Dataplane","labels":{"tier":"front"}}`, `{"kind":"Dataplane","labels":{"kuma.io/display-name":"web-1"}}`,
		`{"kind":"Dataplane","labels":{"kuma.io/workload":"api"},"sectionName":"tcp"}`)
	switch h.rnd.IntN(8) {
	case 0, 1, 2:
		match := func() string {
			return fmt.Sprintf(`{"spiffeID":{"type":%q,"value":"spiffe://%s.east.mesh.local/%s"}}`, h.pick("Exact", "Prefix"), m, h.pick("workload/web", "workload/api", "", "workload/"))
		}
		spec = fmt.Sprintf(`{"targetRef":%s,"rules":[{"default":{%q:[%s],%q:[%s]}}]}`, target, h.pick("allow", "allowWithShadowDeny"), match(), "deny", h.pick("", match()))
	case 3:
		kind = mesh.KindMeshTimeout
		spec = h.pick(
			fmt.Sprintf(`{"targetRef":%s,"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":"%ds","http":{"requestTimeout":"3s"}}}]}`, target, 1+h.rnd.IntN(5)),
			fmt.Sprintf(`{"targetRef":%s,"rules":[{"default":{"idleTimeout":"%ds"}}]}`, target, 1+h.rnd.IntN(5)), `{"to":"nonsense"}`)
	case 4:
		kind = mesh.KindMeshHTTPRoute
		spec = fmt.Sprintf(`{"targetRef":%s,"to":[{"targetRef":{"kind":%q,"labels":{"kuma.io/display-name":"api"}},"rules":[{"matches":[{"path":{"type":"PathPrefix","value":"/v%d"}}],"default":{"backendRefs":[{"kind":"MeshService","labels":{"kuma.io/display-name":"api","kuma.io/zone":"west"},"port":8080,"weight":%d},{"kind":"MeshService","labels":{"kuma.io/display-name":"web"},"port":8080}]}}]}]}`,
			target, h.pick("MeshService", "MeshMultiZoneService"), h.rnd.IntN(3), h.rnd.IntN(3))
	case 5:
		kind = mesh.KindMeshTCPRoute
		spec = fmt.Sprintf(`{"targetRef":%s,"to":[{"targetRef":{"kind":"MeshService","labels":{"kuma.io/display-name":"db"}},"rules":[{"default":{"backendRefs":[{"kind":"MeshService","labels":{"kuma.io/display-name":%q},"port":9090}]}}]}]}`, target, h.pick("db", "api", "gone"))
	case 6:
		kind, name = mesh.KindMeshMultiZoneService, "all"
		spec = fmt.Sprintf(`{"selector":{"meshService":{"matchLabels":{"kuma.io/display-name":%q}}},"ports":[{"port":8080,"appProtocol":"http"}]}`, h.pick("api", "web", "db"))
	default:
		kind, name = mesh.KindMeshIdentity, h.pick("id-1", "id-2")
		spec = h.pick(`{"provider":{"type":"Bundled"}}`, `{"selector":{"dataplane":{"matchLabels":{"tier":"front"}}},"provider":{"type":"Bundled"}}`,
			`{"spiffeID":{"path":"/w/{{ .Workload }}"},"provider":{"type":"Bundled"}}`,
			`{"spiffeID":{"trustDomain":"{{ .Mesh }}.{{ .Zone }}.corp"},"provider":{"type":"Bundled","bundled":{"meshTrustCreation":"Disabled"}}}`,
			`{"selector":{"dataplane":{"matchLabels":{"kuma.io/display-name":"api-1"}}},"provider":{"type":"Bundled"}}`)
	}
	h.last += fmt.Sprintf(" %s(%s/%s)", kind, m, name)
	r := resource(h.t, kind, m, "", name, spec)
	if h.rnd.IntN(5) == 0 {
		return []mesh.Change{del(r.Key)}
	}
	return []mesh.Change{put(r)}
}

// same compares with an engine that starts from the disk, and with what the
// publisher was told.
func (h *history) same(step int) bool {
	h.t.Helper()
	out := newRecorder()
	oracle := h.engine(out)
	var files []mesh.Resource
	for _, k := range sortedKeys(h.e.files) {
		files = append(files, h.e.files[k])
	}
	b := &op{run: func(b *batch) {
		oracle.takeFiles(b, files)
		for k, p := range h.e.proxies {
			if q := oracle.proxies[k]; q != nil {
				q.draining = p.draining
			}
		}
	}}
	oracle.process([]*op{b})
	fail := func(what, diff string) bool {
		h.t.Errorf("step %d:%s: %s differs (-from scratch +incremental):\n%s", step, h.last, what, diff)
		return false
	}
	if d := cmp.Diff(sortedKeys(oracle.proxies), sortedKeys(h.e.proxies)); d != "" {
		return fail("membership", d)
	}
	if d := cmp.Diff(counted(h.e), h.e.census); d != "" {
		return fail("census", d)
	}
	for _, k := range sortedKeys(h.e.proxies) {
		p := h.e.proxies[k]
		got := published(h.out, p)
		h.compared += len(got)
		if d := cmp.Diff(published(out, oracle.proxies[k]), got); d != "" {
			return fail(k.String(), d)
		}
		if p.class.proxy != nil && h.out.groups[p.node] != p.class.ir.ID {
			return fail(k.String()+" as assigned", h.out.groups[p.node]+" "+p.class.ir.ID)
		}
	}
	if d := cmp.Diff(oracle.facts.whole(), h.e.facts.whole()); d != "" {
		return fail("facts", d)
	}
	if h.listen(); !cmp.Equal(h.heard, h.e.facts.whole()) {
		return fail("what was told", cmp.Diff(h.e.facts.whole(), h.heard))
	}
	faulty := map[string]bool{}
	for id, c := range h.e.classes {
		if c.proxy != nil && len(c.proxy.Problems) > 0 {
			faulty[id] = true
		}
	}
	if d := cmp.Diff(faulty, h.e.faulty); d != "" {
		return fail("who has problems", d)
	}
	if want, got := fmt.Sprint(oracle.problems()), fmt.Sprint(h.e.problems()); want != got {
		return fail("problems", cmp.Diff(want, got))
	}
	h.held += len(h.e.quarantines)
	if !bytes.Equal(mustJSON(oracle.quarantines), mustJSON(h.e.quarantines)) { // a difference takes long to look for
		return fail("quarantine", cmp.Diff(oracle.quarantines, h.e.quarantines))
	}
	if len(h.e.dirty) > 0 {
		return fail("queue", fmt.Sprint(h.e.dirty))
	}
	return true
}

func (h *history) authority(td string) string { return testAuthority(h.t, td) }
