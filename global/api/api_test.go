package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	gosync "sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
)

func TestStatusCodes(t *testing.T) {
	r := newRig(t)
	r.zoned(mesh.KindDataplane, "east", "web-1", dataplane)
	r.zoned(mesh.KindMeshTimeout, "east", "slow.shop", `{"rules":[{"default":{"idleTimeout":"1s"}}]}`)
	const one = "/meshes/default/meshtimeouts/a"
	created := r.want(201, "PUT", one, r.author, timeout("a", "5s"))
	if created.header.Get("Location") != one {
		t.Errorf("Location is %q", created.header.Get("Location"))
	}
	tag := created.header.Get("ETag")
	for _, c := range []struct {
		name         string
		status       int
		method, path string
		token, body  string
		header       []string
		says         string
	}{
		{"read", 200, "GET", one, r.reader, "", nil, `"idleTimeout":"5s"`},
		{"head", 200, "HEAD", one, r.reader, "", nil, ""},
		{"unchanged since", 304, "GET", one, r.reader, "", []string{"If-None-Match", tag}, ""},
		{"unchanged since, weak", 304, "GET", one, r.reader, "", []string{"If-None-Match", `"7", W/` + tag}, ""},
		{"update", 200, "PUT", one, r.author, timeout("a", "6s"), nil, `"warnings":[]`},
		{"the same again", 200, "PUT", one, r.author, timeout("a", "6s"), nil, `"revision"`},
		{"a trust domain for all zones", 201, "PUT", "/meshes/default/meshidentities/wide", r.author,
			`{"type":"MeshIdentity","mesh":"default","name":"wide","spec":{"spiffeID":{"trustDomain":"example.org"},"provider":{"type":"Bundled"}}}`, nil, "impersonate the workloads of all"},
		{"YAML", 200, "PUT", one, r.author, "type: MeshTimeout\nspec:\n  to:\n  - targetRef: {kind: Mesh}\n    default: {idleTimeout: 7s}\n", []string{"Content-Type", "application/yaml"}, ""},
		{"dry run", 200, "PUT", one + "-dry?dryRun=true", r.author, timeout("a-dry", "6s"), nil, ""},
		{"dry run wrote nothing", 404, "GET", one + "-dry", r.author, "", nil, "a-dry"},
		{"no JSON", 400, "PUT", one, r.author, `{"type":`, nil, "body"},
		{"two documents", 400, "PUT", one, r.author, timeout("a", "1s") + "\n---\n" + timeout("b", "1s"), []string{"Content-Type", "application/yaml"}, "exactly one"},
		{"size", 400, "GET", "/meshes?size=1001", r.reader, "", nil, "1 to 1000"},
		{"offset", 400, "GET", "/meshes?offset=-1", r.reader, "", nil, "offset"},
		{"unknown filter", 400, "GET", "/meshes?labels.x=y", r.reader, "", nil, "labels.x"},
		{"bad tag", 400, "PUT", one, r.author, timeout("a", "1s"), []string{"If-Match", "42"}, "If-Match"},
		{"tag in a PUT", 400, "PUT", one, r.author, timeout("a", "1s"), []string{"If-None-Match", `"3"`}, "must be *"},
		{"bad flag", 400, "PUT", one + "?dryRun=yes", r.author, timeout("a", "1s"), nil, "dryRun"},
		{"no token", 401, "GET", one, "", "", nil, "token"},
		{"no token for what is not there", 401, "GET", "/nothing", "", "", nil, "token"},
		{"not a token", 401, "GET", one, "nonsense", "", nil, "malformed"},
		{"another scheme", 401, "GET", one, "", "", []string{"Authorization", "Basic eDp5"}, "Bearer"},
		{"group", 403, "PUT", one, r.reader, timeout("a", "1s"), nil, "author"},
		{"no such path", 404, "GET", "/nothing", r.admin, "", nil, "/nothing"},
		{"no such name", 404, "GET", one + "x", r.admin, "", nil, "ax"},
		{"no such mesh, read", 404, "GET", "/meshes/other/meshtimeouts/a", r.admin, "", nil, `mesh \"other\"`},
		{"no such mesh, list", 404, "GET", "/meshes/other/meshtimeouts", r.admin, "", nil, `mesh \"other\"`},
		{"no such mesh, write", 404, "PUT", "/meshes/other/meshtimeouts/a", r.admin, strings.ReplaceAll(timeout("a", "1s"), "default", "other"), nil, `mesh \"other\"`},
		{"no such resource to delete", 404, "DELETE", one + "x", r.admin, "", nil, "ax"},
		{"method", 405, "POST", one, r.admin, "", nil, "DELETE, GET, HEAD, PUT"},
		{"a zone's kind", 405, "PUT", "/meshes/default/dataplanes/x.east", r.admin, "{}", nil, "zones own"},
		{"a zone's resource", 405, "DELETE", "/meshes/default/dataplanes/web-1.east", r.admin, "", nil, "zones own"},
		{"a zone's policy is shown", 200, "GET", "/meshes/default/meshtimeouts/slow.shop.east", r.reader, "", nil, `"name":"slow.shop.east"`},
		{"a zone's policy is listed", 200, "GET", "/meshes/default/meshtimeouts", r.reader, "", nil, `"name":"slow.shop.east"`},
		{"a zone's policy is not changed here", 405, "PUT", "/meshes/default/meshtimeouts/slow.shop.east", r.admin, timeout("slow.shop.east", "1s"), nil, `zone \"east\" owns MeshTimeout \"slow.shop\"`},
		{"a zone's policy is not deleted here", 405, "DELETE", "/meshes/default/meshtimeouts/slow.shop.east", r.admin, "", nil, `zone \"east\" owns MeshTimeout \"slow.shop\"`},
		{"nor among others", 409, "PUT", "/resources", r.admin, timeout("slow.shop.east", "1s"), nil, `zone \"east\" owns MeshTimeout \"slow.shop\"`},
		{"mesh in use", 409, "DELETE", "/meshes/default", r.admin, "", nil, "web-1.east"},
		{"exists", 412, "PUT", one, r.author, timeout("a", "9s"), []string{"If-None-Match", "*"}, "exists"},
		{"changed since", 412, "PUT", one, r.author, timeout("a", "9s"), []string{"If-Match", tag}, "revision"},
		{"changed since, delete", 412, "DELETE", one, r.author, "", []string{"If-Match", tag}, "revision"},
		{"absent", 412, "PUT", one + "x", r.author, timeout("ax", "9s"), []string{"If-Match", "*"}, "does not exist"},
		{"absent, delete", 412, "DELETE", one + "x", r.author, "", []string{"If-Match", "*"}, "does not exist"},
		{"too large", 413, "PUT", one, r.author, strings.Repeat(" ", MaxBody+1), nil, "more than"},
		{"media type", 415, "PUT", one, r.author, "x", []string{"Content-Type", "application/xml"}, "application/yaml"},
		{"unknown field", 422, "PUT", one, r.author, strings.Replace(timeout("a", "1s"), "idleTimeout", "idleTimeot", 1), nil, `"field":"spec.to[0].default.idleTimeot"`},
		{"other name", 422, "PUT", one, r.author, timeout("b", "1s"), nil, `"field":"name"`},
		{"other mesh", 422, "PUT", one, r.author, strings.Replace(timeout("a", "1s"), "default", "other", 1), nil, `"field":"mesh"`},
		{"other kind", 422, "PUT", one, r.author, strings.Replace(timeout("a", "1s"), "MeshTimeout", "MeshTCPRoute", 1), nil, `"field":"type"`},
		{"bad name", 422, "PUT", "/meshes/Default", r.admin, `{"type":"Mesh","name":"Default"}`, nil, `"field":"name"`},
		{"reserved label", 422, "PUT", one, r.author, strings.Replace(timeout("a", "1s"), `"spec"`, `"labels":{"kuma.io/origin":"zone"},"spec"`, 1), nil, "origin"},
		{"reserved secret", 422, "PUT", "/meshes/default/secrets/dataplane-token-revocations", r.admin, `{"type":"Secret","data":"W10="}`, nil, "reserved"},
		{"reserved secret, delete", 403, "DELETE", "/meshes/default/secrets/dataplane-token-signing-key-1", r.admin, "", nil, "tokens"},
		{"healthy", 200, "GET", "/healthz", "", "", nil, "ok"},
		{"ready", 200, "GET", "/readyz", "", "", nil, "ok"},
		{"described", 200, "GET", "/openapi.json", "", "", nil, "3.1"},
		{"metrics", 200, "GET", "/metrics", r.reader, "", nil, "tombolo_api_requests_total"},
		{"index", 200, "GET", "/", r.nobody, "", nil, "Tombolo"},
		{"who am I", 200, "GET", "/who-am-i", r.author, "", nil, `"ann"`},
		{"kinds", 200, "GET", "/_resources", r.reader, "", nil, `"meshtimeouts"`},
		{"by id", 200, "GET", "/_kri/kri_mt_default___a_", r.reader, "", nil, `"7s"`},
		{"no id", 400, "GET", "/_kri/mt_a", r.reader, "", nil, "kri_"},
		{"id of an unknown kind", 400, "GET", "/_kri/kri_xx_default___a_", r.reader, "", nil, "xx"},
		{"delete", 200, "DELETE", one, r.author, "", nil, `"revision"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := *r
			r.T = t
			a := r.do(c.method, c.path, c.token, c.body, c.header...)
			if a.status != c.status {
				t.Fatalf("status %d, want %d: %s", a.status, c.status, a.body)
			}
			if !strings.Contains(string(a.body), c.says) {
				t.Errorf("%q is not in %s", c.says, a.body)
			}
			if c.status >= 400 {
				r.want(c.status, c.method, c.path, c.token, c.body, c.header...)
			}
			if c.status == 405 && a.header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
			if c.status == 401 && a.header.Get("WWW-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
		})
	}
}

func TestStoreAwayAndPanic(t *testing.T) {
	var mode atomic.Value
	mode.Store("")
	r := newRig(t, func(s store.Store) store.Store {
		return &broken{s, func(call string) error {
			switch m := mode.Load(); {
			case m == "away":
				return fmt.Errorf("asked: %w", store.ErrUnavailable)
			case m == "panic" && call == "get":
				panic("a defect")
			case m == "race" && call == "write":
				return fmt.Errorf("always: %w", store.ErrConflict)
			}
			return nil
		}}
	})
	mode.Store("away")
	r.want(503, "GET", "/meshes/default", r.admin, "")
	r.want(503, "GET", "/readyz", "", "")
	r.want(200, "GET", "/healthz", "", "")
	mode.Store("panic")
	a := r.want(500, "GET", "/meshes/default", r.admin, "")
	if strings.Contains(string(a.body), "defect") {
		t.Errorf("a panic's text is told to the client: %s", a.body)
	}
	mode.Store("race")
	r.want(409, "PUT", "/meshes/default/meshtimeouts/a", r.admin, timeout("a", "1s"))
	mode.Store("")
	r.want(200, "GET", "/meshes/default", r.admin, "")
}

// TestWhoMayDoWhat loops over all kinds; what is expected is said here, not
// taken from the routes.
func TestWhoMayDoWhat(t *testing.T) {
	r := newRig(t)
	allowed := func(token, method, path string) bool {
		a := r.do(method, path, token, "{}")
		if a.status == 401 {
			t.Errorf("%s %s: 401 with a good token", method, path)
		}
		return a.status != 403
	}
	check := func(method, path string, want ...string) {
		t.Helper()
		if a := r.do(method, path, "", "{}"); a.status != 401 {
			t.Errorf("%s %s without a token: status %d", method, path, a.status)
		}
		for name, token := range map[string]string{"admin": r.admin, "author": r.author, "reader": r.reader, "nobody": r.nobody} {
			if got := allowed(token, method, path); got != slices.Contains(want, name) {
				t.Errorf("%s %s as %s: allowed is %v", method, path, name, got)
			}
		}
	}
	for _, k := range mesh.Kinds() {
		base := "/" + k.Plural()
		if k.Scope == mesh.ScopeMesh {
			base = "/meshes/default" + base
		}
		readers, writers := []string{"admin", "author", "reader"}, []string{"admin", "author"}
		if k.Name == mesh.KindSecret {
			readers, writers = []string{"admin"}, []string{"admin"}
		}
		check("GET", base, readers...)
		check("GET", base+"/no-such", readers...)
		if k.Flow == 0 || k.Flow.Has(mesh.GlobalToZones) {
			check("PUT", base+"/no-such?dryRun=true", writers...)
			check("DELETE", base+"/no-such", writers...)
		}
	}
	everybody := []string{"admin", "author", "reader", "nobody"}
	check("GET", "/", everybody...)
	check("GET", "/who-am-i", everybody...)
	for _, path := range []string{"/metrics", "/changes", "/changes/1", "/changes/1/status", "/zones/_overview", "/_resources", "/_kri/kri_m____default_",
		"/meshes/default/dataplanes/x.east/xds", "/meshes/default/dataplanes/x.east/certs"} {
		check("GET", path, "admin", "author", "reader")
	}
	check("PUT", "/resources", "admin", "author")
	for _, path := range []string{"/tokens/user", "/tokens/zone", "/tokens/dataplane", "/tokens/revocations"} {
		check("POST", path, "admin")
	}
	check("GET", "/tokens/revocations", "admin")
	// A batch is no way around.
	a := r.want(422, "PUT", "/resources", r.author, `[{"type":"Secret","mesh":"default","name":"s","data":"eA=="}]`)
	if !strings.Contains(string(a.body), "only group admin") {
		t.Errorf("a Secret in a batch of an author: %s", a.body)
	}
}

func TestConcurrentWritesAreNotLostUnseen(t *testing.T) {
	r := newRig(t)
	const path, n = "/meshes/default/meshtimeouts/a", 12
	race := func(write func(i int) reply) (by map[int]int) {
		by = map[int]int{}
		var mu gosync.Mutex
		var wg gosync.WaitGroup
		for i := range n {
			wg.Go(func() {
				a := write(i)
				mu.Lock()
				defer mu.Unlock()
				by[a.status]++
			})
		}
		wg.Wait()
		return by
	}
	by := race(func(i int) reply {
		return r.do("PUT", path, r.author, timeout("a", fmt.Sprintf("%ds", i+1)), "If-None-Match", "*")
	})
	if diff := cmp.Diff(map[int]int{201: 1, 412: n - 1}, by); diff != "" {
		t.Error("create once:", diff)
	}
	tag := r.want(200, "GET", path, r.author, "").header.Get("ETag")
	by = race(func(i int) reply {
		return r.do("PUT", path, r.author, timeout("a", fmt.Sprintf("%dm", i+1)), "If-Match", tag)
	})
	if diff := cmp.Diff(map[int]int{200: 1, 412: n - 1}, by); diff != "" {
		t.Error("change what was read:", diff)
	}
	var tags gosync.Map
	by = race(func(i int) reply {
		a := r.do("PUT", path, r.author, timeout("a", fmt.Sprintf("%dh", i+1)))
		if a.status == 200 {
			if _, dup := tags.LoadOrStore(a.header.Get("ETag"), i); dup {
				t.Errorf("two writes got ETag %s", a.header.Get("ETag"))
			}
		}
		return a
	})
	if by[200]+by[409] != n || by[200] == 0 {
		t.Errorf("last write wins: %v", by)
	}
	// Every ETag that was given is of a change that is in the log, by that author.
	tags.Range(func(tag, i any) bool {
		var e ChangeEntry
		r.want(200, "GET", "/changes/"+strings.Trim(tag.(string), `"`), r.reader, "").decode(t, &e)
		if e.Author != "user:ann" || !strings.Contains(string(e.Resource), fmt.Sprintf(`"%dh"`, i.(int)+1)) {
			t.Errorf("change %v is %s by %s", tag, e.Resource, e.Author)
		}
		return true
	})
}

func TestMeshComesAndGoesAsAWhole(t *testing.T) {
	r := newRig(t)
	a := r.want(201, "PUT", "/meshes/pay", r.author, `{"type":"Mesh","name":"pay"}`)
	var out Written
	a.decode(t, &out)
	if got := a.header.Get("ETag"); got != etag(out.First) {
		t.Errorf("ETag %s, but the mesh is revision %d", got, out.First)
	}
	if got := r.want(200, "GET", "/meshes/pay", r.author, "").header.Get("ETag"); got != a.header.Get("ETag") {
		t.Errorf("ETag of the answer %s, of a read %s", a.header.Get("ETag"), got)
	}
	r.want(200, "GET", "/meshes/pay/meshidentities/default", r.author, "")
	r.want(200, "GET", "/meshes/pay/meshtimeouts/mesh-timeout-all-pay", r.author, "")
	var secret struct{ Data *string }
	for _, name := range []string{token.SigningKeyName(token.Dataplane, 1), token.PublicKeyName(token.Dataplane, 1), token.RevocationsName(token.Dataplane)} {
		r.want(200, "GET", "/meshes/pay/secrets/"+name, r.admin, "").decode(t, &secret)
		if secret.Data != nil {
			t.Errorf("%s is shown", name)
		}
	}
	key, err := r.store.Get(t.Context(), mesh.Key{Kind: mesh.KindSecret, Mesh: "pay", Name: token.SigningKeyName(token.Dataplane, 1)})
	if err != nil || key.Labels[mesh.LabelSync] != mesh.SyncDisabled {
		t.Errorf("the signing key may leave global: labels %v, err %v", key.Labels, err)
	}
	public, err := r.store.Get(t.Context(), mesh.Key{Kind: mesh.KindSecret, Mesh: "pay", Name: token.PublicKeyName(token.Dataplane, 1)})
	if err != nil || public.Labels[mesh.LabelSync] != "" {
		t.Errorf("the public key does not reach zones: labels %v, err %v", public.Labels, err)
	}
	r.want(201, "PUT", "/meshes/pay/secrets/own", r.admin, `{"type":"Secret","data":"c2VjcmV0"}`)
	r.want(200, "DELETE", "/meshes/pay", r.author, "")
	r.want(404, "GET", "/meshes/pay", r.author, "")
	for _, k := range mesh.Kinds() {
		page, err := r.store.List(t.Context(), store.Query{Kind: k.Name, Mesh: "pay"})
		if err != nil || page.Total != 0 {
			t.Errorf("%s: %d remain of a deleted mesh, err %v", k.Name, page.Total, err)
		}
	}
	// Without initial policies there still is an identity: no window of plain text.
	r.want(201, "PUT", "/meshes/bare", r.author, `{"type":"Mesh","name":"bare","skipCreatingInitialPolicies":["*"]}`)
	r.want(200, "GET", "/meshes/bare/meshidentities/default", r.author, "")
	r.want(404, "GET", "/meshes/bare/meshtimeouts/mesh-timeout-all-bare", r.author, "")
}

func TestZoneInUseIsNotDeleted(t *testing.T) {
	r := newRig(t)
	r.want(201, "PUT", "/zones/east", r.author, `{"type":"Zone","name":"east"}`)
	r.zoned(mesh.KindMeshService, "east", "web", `{"ports":[{"port":80}],"selector":{"dataplaneLabels":{"matchLabels":{"app":"web"}}}}`)
	r.fleet.zones = []sync.ZoneStatus{{Name: "east", Online: true}}
	r.want(409, "DELETE", "/zones/east", r.author, "")
	r.fleet.zones[0].Online = false
	r.want(200, "DELETE", "/zones/east", r.author, "")
	r.want(404, "GET", "/meshes/default/meshservices/web.east", r.author, "")
}

func TestBatchIsAllOrNone(t *testing.T) {
	r := newRig(t)
	yaml := []string{"Content-Type", "application/yaml"}
	head := func() mesh.Revision {
		at, err := r.store.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return at.Revision
	}
	before := head()
	bad := "type: MeshTimeout\nmesh: default\nname: a\nspec: {to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]}\n" +
		"---\ntype: MeshTimeout\nmesh: nope\nname: b\nspec: {to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]}\n" +
		"---\ntype: Dataplane\nmesh: default\nname: c\nnetworking: {address: 1.2.3.4}\n" +
		"---\ntype: MeshTimeout\nmesh: default\nname: a\nspec: {bad: 1}\n"
	var p Problem
	r.want(422, "PUT", "/resources", r.author, bad, yaml...).decode(t, &p)
	got := map[int][]string{}
	for _, x := range p.Invalid {
		got[x.Document] = append(got[x.Document], x.Field)
	}
	for document, field := range map[int]string{2: "mesh", 3: "type", 4: "spec.bad"} {
		if !slices.Contains(got[document], field) {
			t.Errorf("document %d: no problem of %s in %v", document, field, got)
		}
	}
	if len(got[1]) > 0 || !slices.Contains(got[4], "name") {
		t.Errorf("problems %v: the second of two equal documents is wrong, not the first", got)
	}
	if head() != before {
		t.Error("a refused batch wrote something")
	}
	good := "type: MeshTimeout\nmesh: new\nname: a\nspec: {to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]}\n" +
		"---\ntype: MeshIdentity\nmesh: new\nname: default\nspec: {selector: {dataplane: {}}, provider: {type: Bundled}}\n" +
		"---\ntype: Mesh\nname: new\n"
	var out Written
	r.want(200, "PUT", "/resources?dryRun=true", r.author, good, yaml...).decode(t, &out)
	if head() != before || len(out.Results) != 3 {
		t.Errorf("dry run: head %d, was %d; results %v", head(), before, out.Results)
	}
	r.want(200, "PUT", "/resources", r.author, good, yaml...).decode(t, &out)
	if out.First != before+1 || out.Revision != head() {
		t.Errorf("revisions %d to %d, want %d to %d", out.First, out.Revision, before+1, head())
	}
	for _, x := range out.Results {
		res, err := r.store.Get(t.Context(), mesh.Key{Kind: x.Kind, Mesh: x.Mesh, Name: x.Name})
		if err != nil || res.Revision != x.Revision || x.Action != actionCreated {
			t.Errorf("%+v, but it is revision %d, err %v", x, res.Revision, err)
		}
	}
	id, err := r.store.Get(t.Context(), mesh.Key{Kind: mesh.KindMeshIdentity, Mesh: "new", Name: "default"})
	if err != nil || strings.Contains(string(id.Spec), "meshTrustCreation") {
		t.Errorf("the default identity took the place of the given one: %s, %v", id.Spec, err)
	}
	var again Written
	r.want(200, "PUT", "/resources", r.author, good, yaml...).decode(t, &again)
	if again.First != 0 || again.Revision == 0 {
		t.Errorf("nothing changed, but %+v", again)
	}
}

func TestListPagesAndFilters(t *testing.T) {
	r := newRig(t)
	for i := range 5 {
		body := strings.Replace(timeout(fmt.Sprintf("t%d", i), "5s"), `"spec"`, fmt.Sprintf(`"labels":{"kuma.io/effect":"shadow","n":"%d"},"spec"`, i%2), 1)
		r.want(201, "PUT", fmt.Sprintf("/meshes/default/meshtimeouts/t%d", i), r.author, body)
	}
	var names []string
	next := "/meshes/default/meshtimeouts?size=2&filter[labels.kuma.io/effect]=shadow"
	for pages := 0; next != ""; pages++ {
		var list List
		r.want(200, "GET", next, r.reader, "").decode(t, &list)
		if list.Total != 5 || pages > 3 {
			t.Fatalf("total %d on page %d", list.Total, pages)
		}
		for _, raw := range list.Items {
			var x struct{ Name string }
			if err := json.Unmarshal(raw, &x); err != nil {
				t.Fatal(err)
			}
			names = append(names, x.Name)
		}
		if next = ""; list.Next != nil {
			next = *list.Next
		}
	}
	if diff := cmp.Diff([]string{"t0", "t1", "t2", "t3", "t4"}, names); diff != "" {
		t.Error(diff)
	}
	for query, total := range map[string]int{"filter[labels.n]=1": 2, "filter[labels.n]=1&name=t3": 1, "name=zzz": 0} {
		var list List
		r.want(200, "GET", "/meshtimeouts?"+query, r.reader, "").decode(t, &list)
		if list.Total != total || list.Items == nil {
			t.Errorf("%s: total %d, want %d", query, list.Total, total)
		}
	}
}

func TestProblemsAndReadBack(t *testing.T) {
	r := newRig(t)
	const path = "/meshes/default/meshtimeouts/a"
	r.want(201, "PUT", path, r.author, timeout("a", "5s"))
	r.fleet.zones = []sync.ZoneStatus{{Name: "east", Problems: []sync.ResourceProblem{
		{Kind: "MeshTimeout", Mesh: "default", Name: "a", Reason: "no such port", Proxies: 3},
		{Kind: "MeshTimeout", Mesh: "default", Name: "other", Reason: "not of this one"}}}}
	a := r.want(200, "GET", path, r.reader, "")
	if s := string(a.body); !strings.Contains(s, `"problems":[{"zone":"east","reason":"no such port","proxies":3}]`) {
		t.Errorf("no problems in %s", s)
	}
	// What was read can be written back, and changes nothing.
	var out Written
	r.want(200, "PUT", path, r.author, string(a.body), "If-Match", a.header.Get("ETag")).decode(t, &out)
	if out.First != 0 {
		t.Errorf("writing back what was read is a change: %+v", out)
	}
}

// TestRevisionsOfABatchWithAnUnchangedSecret: sealing the same bytes again must
// be no change, else the revisions that are told would be wrong.
func TestRevisionsOfABatchWithAnUnchangedSecret(t *testing.T) {
	r := newRig(t)
	body := func(value string) string {
		return `[{"type":"Secret","mesh":"default","name":"s","data":"eA=="},` + timeout("a", value) + `]`
	}
	for _, value := range []string{"1s", "2s", "2s", "3s"} {
		var out Written
		r.want(200, "PUT", "/resources", r.admin, body(value)).decode(t, &out)
		for _, x := range out.Results {
			res, err := r.store.Get(t.Context(), mesh.Key{Kind: x.Kind, Mesh: x.Mesh, Name: x.Name})
			if err != nil || res.Revision != x.Revision {
				t.Errorf("%s: told %+v, the store has revision %d, err %v", value, x, res.Revision, err)
			}
		}
	}
}
