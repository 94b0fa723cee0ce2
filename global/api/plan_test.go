package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	gosync "sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
)

// planners are zones that answer plans as the test says, and remember what they
// were asked.
type planners struct {
	mu    gosync.Mutex
	asked map[string]zonesync.Plan
	// answers by zone; a zone without one is offline.
	answers map[string]zonesync.Preview
	errs    map[string]error
}

func (p *planners) inspect(ctx context.Context, zone string, q sync.Question, w io.Writer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var plan zonesync.Plan
	if err := json.Unmarshal(q.Body, &plan); err != nil || q.What != "plan" {
		return fmt.Errorf("%s asked with %q: %w", q.What, q.Body, err)
	}
	p.asked[zone] = plan
	if err := p.errs[zone]; err != nil {
		return err
	}
	answer, ok := p.answers[zone]
	if !ok {
		return fmt.Errorf("inspect zone %s: %w", zone, sync.ErrZoneOffline)
	}
	return json.NewEncoder(w).Encode(answer)
}

// told are the changes that a zone was asked about: "+Kind name" or "-Kind name".
func (p *planners) told(zone string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, c := range p.asked[zone].Changes {
		sign := "+"
		if c.Deleted {
			sign = "-"
		}
		out = append(out, sign+string(c.Kind)+" "+c.Name)
	}
	return out
}

func planRig(t *testing.T) (*rig, *planners) {
	r := newRig(t)
	p := &planners{asked: map[string]zonesync.Plan{}, answers: map[string]zonesync.Preview{}, errs: map[string]error{}}
	r.fleet.inspect = p.inspect
	for _, z := range []string{"east", "west"} {
		r.want(201, "PUT", "/zones/"+z, r.admin, fmt.Sprintf(`{"type":"Zone","name":%q}`, z))
		p.answers[z] = zonesync.Preview{}
	}
	return r, p
}

func permit(name, lists string) string {
	return fmt.Sprintf(`{"type":"MeshTrafficPermission","mesh":"default","name":%q,"spec":{"rules":[{"default":{%s}}]}}`, name, lists)
}

const (
	allowAnybody = `"allow":[{"spiffeID":{"type":"Prefix","value":"spiffe://a/"}}]`
	denyWeb      = `"deny":[{"spiffeID":{"type":"Exact","value":"spiffe://a/web"}}]`
)

func (r *rig) planned(body, query string) Planned {
	r.Helper()
	var out Planned
	r.want(200, "POST", "/plan"+query, r.reader, body).decode(r.T, &out)
	return out
}

func TestPlanAsksEveryZone(t *testing.T) {
	r, zones := planRig(t)
	head, err := r.store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	zones.answers["east"] = zonesync.Preview{Zone: "liar", Proxies: 7, Affected: 3}
	zones.errs["west"] = fmt.Errorf("zone west: %w", sync.ErrOutdated)
	out := r.planned("["+timeout("a", "5s")+"]", "?envoy=true")
	if len(out.Zones) != 1 || out.Zones[0].Zone != "east" || out.Zones[0].Affected != 3 {
		t.Errorf("answered: %+v", out.Zones)
	}
	if len(out.Unanswered) != 1 || out.Unanswered[0].Zone != "west" || !strings.Contains(out.Unanswered[0].Reason, "older") {
		t.Errorf("unanswered: %+v", out.Unanswered)
	}
	if out.Revision != head.Revision || len(out.Results) != 1 || out.Results[0].Action != actionCreated || out.Results[0].Revision != 0 {
		t.Errorf("%+v", out)
	}
	asked := zones.asked["east"]
	if !asked.Envoy || len(asked.Changes) != 1 {
		t.Fatalf("asked %+v", asked)
	}
	c := asked.Changes[0].Change()
	if c.Resource.Created.IsZero() || c.Resource.Revision != head.Revision+1 || c.Resource.Labels[mesh.LabelOrigin] == "" || c.Resource.Key != (mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "a"}) {
		t.Errorf("the change is not what the store would make of it: %+v", c)
	}
	after, err := r.store.Head(t.Context())
	if err != nil || after != head {
		t.Errorf("the plan wrote: %v, %v, %v", head, after, err)
	}
	zones.asked = map[string]zonesync.Plan{}
	if out := r.planned("["+timeout("a", "5s")+"]", "?zone=east"); len(out.Zones) != 1 || len(out.Unanswered) != 0 || len(zones.asked) != 1 {
		t.Errorf("one zone alone: %+v, asked %v", out, zones.asked)
	}
}

func TestPlanIsCheckedAsAWrite(t *testing.T) {
	r, zones := planRig(t)
	bad := "[" + timeout("a", "x") + "," + timeout("b", "-1s") + "," + timeout("c", "1s") + "]"
	var p Problem
	r.want(422, "POST", "/plan", r.reader, bad).decode(t, &p)
	if len(p.Invalid) != 2 || len(zones.asked) > 0 {
		t.Errorf("%+v, asked %v", p, zones.asked)
	}
	r.want(404, "POST", "/plan?zone=south", r.reader, "["+timeout("a", "5s")+"]")
	r.want(400, "POST", "/plan?timeout=1h", r.reader, "["+timeout("a", "5s")+"]")
	r.want(401, "POST", "/plan", "", "[]")
	// What would not be written nobody is asked about.
	r.want(201, "PUT", "/meshes/default/meshtimeouts/a", r.author, timeout("a", "5s"))
	clear(zones.asked)
	out := r.planned("["+timeout("a", "5s")+"]", "")
	if out.Results[0].Action != actionUnchanged || len(zones.asked) > 0 || len(out.Zones) != 2 {
		t.Errorf("%+v, asked %v", out, zones.asked)
	}
}

func TestPlanOfADeletion(t *testing.T) {
	r, zones := planRig(t)
	r.want(201, "PUT", "/meshes/default/meshtimeouts/a", r.author, timeout("a", "5s"))
	out := r.planned("["+timeout("a", "1s")+","+timeout("gone", "1s")+"]", "?delete=true")
	if out.Results[0].Action != actionDeleted || out.Results[1].Action != actionUnchanged {
		t.Errorf("%+v", out.Results)
	}
	if d := cmp.Diff([]string{"-MeshTimeout a"}, zones.told("west")); d != "" {
		t.Error(d)
	}
	r.want(200, "GET", "/meshes/default/meshtimeouts/a", r.reader, "")
}

// A zone is asked about what it would see: nothing of its own, no Zone, and what a
// disabled zone owns goes away for the others.
func TestPlanShowsZonesWhatTheySee(t *testing.T) {
	r, zones := planRig(t)
	service := r.zoned(mesh.KindMeshService, "east", "shop", `{"selector":{"dataplaneLabels":{"matchLabels":{"a":"b"}}},"ports":[{"port":80}]}`)
	out := r.planned(`[{"type":"Zone","name":"east","enabled":false}]`, "")
	if len(out.Zones) != 2 {
		t.Errorf("%+v", out)
	}
	if d := cmp.Diff([]string{"-MeshService " + service.Name}, zones.told("west")); d != "" {
		t.Error(d)
	}
	if told := zones.told("east"); told != nil {
		t.Error("east is asked about itself:", told)
	}
	r.want(200, "PUT", "/zones/east", r.admin, `{"type":"Zone","name":"east","enabled":false}`)
	clear(zones.asked)
	r.planned(`[{"type":"Zone","name":"east"}]`, "")
	if d := cmp.Diff([]string{"+MeshService " + service.Name}, zones.told("west")); d != "" {
		t.Error(d)
	}
}

// opened is an answer in which callers get in.
func opened() zonesync.Preview {
	return zonesync.Preview{Proxies: 5, Affected: 4, Effects: []zonesync.PlannedEffect{{Mesh: "default", Role: "sidecar", Proxies: 4,
		Workloads: []zonesync.PlannedWorkload{{Name: "api", Proxies: 4}},
		Lines: []effect.Line{
			{Sign: effect.Added, Area: effect.Permission, At: []string{"inbound http"}, Text: "allow everyone", Who: "everyone with a certificate", Bearing: effect.Widens,
				Causes: []effect.Cause{{Kind: mesh.KindMeshTrafficPermission, Mesh: "default", Name: "all", Path: "rules[0].default.allow[0]"}}},
			{Sign: effect.Changed, Area: effect.Timeout, Text: "request timeout 1s → 2s", Bearing: effect.Alters},
		}}}}
}

const wayIn = "api of mesh default in zone east (4 proxies) can be called by everyone with a certificate at inbound http: MeshTrafficPermission default/all rules[0].default.allow[0]"

func TestWritesSayWhomTheyLetIn(t *testing.T) {
	r, zones := planRig(t)
	zones.answers["east"] = opened()
	r.zoned(mesh.KindDataplane, "west", "web-1", dataplane)
	delete(zones.answers, "west")
	want := []string{wayIn, "zone west cannot say whom this lets in: it is offline"}
	path := "/meshes/default/meshtrafficpermissions/all"
	body := permit("all", allowAnybody)

	var p Problem
	r.want(409, "PUT", "/resources?weakening=refuse", r.author, "["+body+"]").decode(t, &p)
	var said []string
	for _, x := range p.Invalid {
		said = append(said, x.Reason)
	}
	if d := cmp.Diff(want, said); d != "" || p.Type != WeakensType {
		t.Errorf("refused with %s: %s", p.Type, d)
	}
	r.want(409, "PUT", path+"?weakening=refuse", r.author, body)
	r.want(404, "GET", path, r.reader, "")
	r.want(400, "PUT", path+"?weakening=maybe", r.author, body)

	var w Written
	r.want(200, "PUT", path+"?dryRun=true", r.author, body).decode(t, &w)
	if d := cmp.Diff(want, w.Warnings); d != "" {
		t.Error("dry run:", d)
	}
	w = Written{}
	r.want(201, "PUT", path, r.author, body).decode(t, &w)
	if d := cmp.Diff(want, w.Warnings); d != "" || w.First == 0 {
		t.Error("written:", d)
	}
	// Who accepts it waits for no zone.
	clear(zones.asked)
	w = Written{}
	r.want(200, "PUT", path+"?weakening=accept", r.author, permit("all", allowAnybody+","+`"allowWithShadowDeny":[{"sni":{"type":"Exact","value":"x"}}]`)).decode(t, &w)
	if len(w.Warnings)+len(zones.asked) > 0 {
		t.Errorf("%v, asked %v", w.Warnings, zones.asked)
	}
	// To take a deny away is one, too.
	r.want(201, "PUT", "/meshes/default/meshtrafficpermissions/d", r.author, permit("d", denyWeb))
	if len(zones.asked) > 0 {
		t.Error("a deny lets nobody in, and zones were asked:", zones.asked)
	}
	r.want(409, "DELETE", "/meshes/default/meshtrafficpermissions/d?weakening=refuse", r.author, "")
	w = Written{}
	r.want(200, "DELETE", "/meshes/default/meshtrafficpermissions/d", r.author, "").decode(t, &w)
	if !slices.Contains(w.Warnings, wayIn) {
		t.Error("deleted without a word:", w.Warnings)
	}
}

// Only what may let somebody in makes a write wait for zones.
func TestWhatMayOpen(t *testing.T) {
	of := func(text string) *mesh.Resource {
		if text == "" {
			return nil
		}
		m, err := mesh.DecodeManifests([]byte(text), 0)
		if err != nil || len(m) != 1 {
			t.Fatal(err)
		}
		return &m[0].Resource
	}
	target := func(kind string) string {
		return strings.Replace(permit("p", denyWeb), `"spec":{`, fmt.Sprintf(`"spec":{"targetRef":{"kind":%q},`, kind), 1)
	}
	identity := `{"type":"MeshIdentity","mesh":"default","name":"i","spec":{"provider":{"type":"Bundled"}}}`
	trust := `{"type":"MeshTrust","mesh":"default","name":"t","spec":{"trustDomain":"a.b"}}`
	for name, c := range map[string]struct {
		old, next string
		want      bool
	}{
		"a new deny":                     {"", permit("p", denyWeb), false},
		"a new allow":                    {"", permit("p", allowAnybody), true},
		"an allow that goes":             {permit("p", allowAnybody), "", false},
		"a deny that goes":               {permit("p", denyWeb), "", true},
		"a deny more":                    {permit("p", allowAnybody), permit("p", allowAnybody+","+denyWeb), false},
		"a deny less":                    {permit("p", allowAnybody+","+denyWeb), permit("p", allowAnybody), true},
		"allowed in another list":        {permit("p", allowAnybody), permit("p", strings.Replace(allowAnybody, "allow", "allowWithShadowDeny", 1)), false},
		"an allow instead of a deny":     {permit("p", denyWeb), permit("p", allowAnybody), true},
		"the same":                       {permit("p", allowAnybody), permit("p", allowAnybody), false},
		"a deny of others":               {target("Mesh"), target("Dataplane"), true},
		"a new identity":                 {"", identity, true},
		"an identity that goes":          {identity, "", true},
		"an identity as it was":          {identity, identity, false},
		"a new trust":                    {"", trust, true},
		"a trust that goes":              {trust, "", false},
		"neither there nor to be there ": {"", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			kind := mesh.KindMeshTrafficPermission
			for _, r := range []*mesh.Resource{of(c.old), of(c.next)} {
				if r != nil {
					kind = r.Kind
				}
			}
			if got := opens(kind, of(c.old), of(c.next)); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// Nobody keeps the zones from the plans of others.
func TestAUserPlansOneAtATime(t *testing.T) {
	r, _ := planRig(t)
	asked, proceed := make(chan struct{}), make(chan struct{})
	answer := r.fleet.inspect
	r.fleet.inspect = func(ctx context.Context, zone string, q sync.Question, w io.Writer) error {
		asked <- struct{}{}
		<-proceed
		return answer(ctx, zone, q, w)
	}
	body := "[" + timeout("a", "5s") + "]"
	first := make(chan int)
	go func() { first <- r.do("POST", "/plan?zone=east", r.reader, body).status }()
	<-asked
	if a := r.want(429, "POST", "/plan?zone=east", r.reader, body); !strings.Contains(string(a.body), "one at a time") {
		t.Errorf("%s", a.body)
	}
	second := make(chan int)
	go func() { second <- r.do("POST", "/plan?zone=east", r.author, body).status }()
	<-asked
	close(proceed)
	if a, b := <-first, <-second; a != 200 || b != 200 {
		t.Error("the plans of two users:", a, b)
	}
	r.fleet.inspect = answer
	r.want(200, "POST", "/plan?zone=east", r.reader, body)
}

func TestAnswersOfZonesAreBounded(t *testing.T) {
	var left atomic.Int64
	left.Store(10)
	one, other := &limited{left: 8, ofAll: &left}, &limited{left: 8, ofAll: &left}
	if _, err := one.Write(make([]byte, 8)); err != nil {
		t.Error(err)
	}
	if _, err := one.Write([]byte{1}); err == nil || !strings.Contains(err.Error(), "64 MiB") {
		t.Errorf("more than one zone may say: %v", err)
	}
	if _, err := other.Write(make([]byte, 2)); err != nil {
		t.Error(err)
	}
	if _, err := other.Write([]byte{1}); err == nil || !strings.Contains(err.Error(), "256 MiB together") {
		t.Errorf("more than all may say: %v", err)
	}
}
