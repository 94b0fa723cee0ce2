package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
)

func (r *rig) put(name, value string) mesh.Revision {
	r.Helper()
	var out Written
	r.do("PUT", "/meshes/default/meshtimeouts/"+name, r.author, timeout(name, value)).decode(r.T, &out)
	if out.First == 0 {
		r.Fatalf("%s: nothing was written", name)
	}
	return out.Revision
}

func (r *rig) timeoutOf(name string) string {
	r.Helper()
	a := r.do("GET", "/meshes/default/meshtimeouts/"+name, r.reader, "")
	if a.status == http.StatusNotFound {
		return ""
	}
	_, rest, _ := strings.Cut(string(a.body), `"idleTimeout":"`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

func TestHistorySaysWhereTheLogBegins(t *testing.T) {
	r := newRig(t)
	r.put("a", "1s")
	second := r.put("a", "2s")
	last := r.put("a", "3s")
	r.zoned(mesh.KindDataplane, "east", "web", dataplane)
	var h ResourceHistory
	r.want(200, "GET", "/changes/_history?kind=MeshTimeout&mesh=default&name=a", r.reader, "").decode(t, &h)
	if len(h.Items) != 3 || h.Begins != 1 || h.Items[2].Action != actionCreated || !strings.Contains(h.Items[0].Diff, "-       idleTimeout: 2s") {
		t.Fatalf("history: %+v", h)
	}
	var page WriteList
	r.want(200, "GET", "/changes/_writes?size=1", r.reader, "").decode(t, &page)
	if len(page.Items) != 1 || page.Items[0].Revision != last || page.Next == nil {
		t.Errorf("the newest write must not be what a zone told: %+v", page)
	}
	r.want(200, "GET", "/changes/_writes?size=1&facts=true", r.reader, "").decode(t, &page)
	if page.Items[0].Author != "zone:east" {
		t.Errorf("with facts: %+v", page.Items)
	}
	if err := r.store.Compact(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	r.want(200, "GET", "/changes/_history?kind=mt&mesh=default&name=a", r.reader, "").decode(t, &h)
	if len(h.Items) != 1 || h.Begins != last || !h.Items[0].Beyond || h.Items[0].Action != actionUpdated {
		t.Errorf("compacted history: %+v", h)
	}
	r.want(http.StatusGone, "GET", fmt.Sprintf("/changes/%d/write", second), r.reader, "")
	r.want(http.StatusGone, "POST", fmt.Sprintf("/changes/%d/undo", second), r.author, "")
	a := r.want(http.StatusConflict, "POST", fmt.Sprintf("/changes/%d/undo", last), r.author, "")
	if !strings.Contains(string(a.body), "no longer in the log") {
		t.Errorf("undo beyond the log: %s", a.body)
	}
}

func TestUndoRestoresAndIsUndone(t *testing.T) {
	r := newRig(t)
	r.put("a", "1s")
	var out Written
	r.want(200, "PUT", "/resources", r.author, "["+timeout("a", "2s")+","+timeout("b", "9s")+"]").decode(t, &out)
	undo := func(rev mesh.Revision) (w Written) {
		r.want(200, "POST", fmt.Sprintf("/changes/%d/undo", rev), r.author, "").decode(t, &w)
		return w
	}
	back := undo(out.First) // any revision of it
	if a, b := r.timeoutOf("a"), r.timeoutOf("b"); a != "1s" || b != "" {
		t.Errorf("after the undo a is %q and b %q", a, b)
	}
	undo(back.Revision)
	if a, b := r.timeoutOf("a"), r.timeoutOf("b"); a != "2s" || b != "9s" {
		t.Errorf("after the undo of the undo a is %q and b %q", a, b)
	}
	r.want(http.StatusForbidden, "POST", fmt.Sprintf("/changes/%d/undo", out.First), r.reader, "")
	r.zoned(mesh.KindDataplane, "east", "web", dataplane)
	head, err := r.store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.want(http.StatusConflict, "POST", fmt.Sprintf("/changes/%d/undo", head.Revision), r.author, "")
}

// An undo writes nothing that its author may not write: taking back the creation
// of a Secret deletes it, and with a list of revocations they would be forgotten.
func TestUndoOfSecretsIsForAdministrators(t *testing.T) {
	r := newRig(t)
	var out Written
	r.want(http.StatusCreated, "PUT", "/meshes/default/secrets/s", r.admin, `{"type":"Secret","data":"eA=="}`).decode(t, &out)
	r.want(http.StatusForbidden, "POST", fmt.Sprintf("/changes/%d/undo?force=true", out.Revision), r.author, "")
	r.want(200, "GET", "/meshes/default/secrets/s", r.admin, "")
	r.want(http.StatusForbidden, "POST", "/plan?delete=true", r.reader, `{"type":"Secret","mesh":"default","name":"s"}`)
	r.want(200, "POST", fmt.Sprintf("/changes/%d/undo", out.Revision), r.admin, "")
	r.want(http.StatusNotFound, "GET", "/meshes/default/secrets/s", r.admin, "")

	key := mesh.Key{Kind: mesh.KindSecret, Mesh: "default", Name: "dataplane-token-revocations"}
	head, err := r.store.Write(t.Context(), "user:root", []store.Op{{Resource: mesh.Resource{Key: key, Spec: []byte(`{"data":"W10="}`)}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []string{r.author, r.admin} {
		r.want(http.StatusForbidden, "POST", fmt.Sprintf("/changes/%d/undo?force=true", head.Revision), who, "")
	}
	if _, err := r.store.Get(t.Context(), key); err != nil {
		t.Errorf("the revocations are gone: %v", err)
	}
}

func TestUndoOfAMesh(t *testing.T) {
	r := newRig(t)
	var out Written
	r.want(http.StatusCreated, "PUT", "/meshes/shop", r.author, `{"type":"Mesh","name":"shop"}`).decode(t, &out)
	r.want(http.StatusCreated, "PUT", "/meshes/shop/meshtimeouts/x", r.author, strings.ReplaceAll(timeout("x", "1s"), `"default",`, `"shop",`))
	path := fmt.Sprintf("/changes/%d/undo", out.Revision)
	if a := r.want(http.StatusConflict, "POST", path, r.author, ""); !strings.Contains(string(a.body), "MeshTimeout shop/x") {
		t.Errorf("what is newer must be named: %s", a.body)
	}
	r.want(200, "DELETE", "/meshes/shop/meshtimeouts/x", r.author, "")
	r.want(200, "POST", path, r.author, "")
	page, err := r.store.List(t.Context(), store.Query{Kind: mesh.KindSecret, Mesh: "shop"})
	if err != nil || page.Total != 0 {
		t.Errorf("%d secrets are left, %v", page.Total, err)
	}
	r.want(http.StatusNotFound, "GET", "/meshes/shop", r.reader, "")
}

// What a zone no longer reports of an old revision is known by what its proxies
// refuse now.
func TestStateOfAnOldWrite(t *testing.T) {
	r := newRig(t)
	bad := r.put("a", "1s")
	good := r.put("b", "1s")
	for _, rev := range []mesh.Revision{bad, good} {
		r.fleet.set(sync.ChangeStatus{Revision: rev, Zones: []sync.ZoneProgress{{Zone: "east", State: sync.Done}}, Complete: true})
	}
	r.fleet.zones = []sync.ZoneStatus{{Name: "east", Problems: []sync.ResourceProblem{
		{Kind: "MeshTimeout", Mesh: "default", Name: "a", Reason: "a proxy refuses cluster x: bad", Proxies: 3},
		{Kind: "MeshTimeout", Mesh: "default", Name: "b", Reason: "cannot be honoured", Proxies: 3}}}}
	state := func(rev mesh.Revision) (w Write) {
		r.want(200, "GET", fmt.Sprintf("/changes/%d/write", rev), r.reader, "").decode(t, &w)
		return w
	}
	if w := state(bad); w.State != sync.Rejected || w.Zones[0].Rejected != 3 || !strings.Contains(w.Zones[0].Rejections[0].Reason, "bad") {
		t.Errorf("the refused write: %+v", w)
	}
	if w := state(good); w.State != sync.Done || w.Zones[0].Rejected != 0 {
		t.Errorf("the other write: %+v", w)
	}
}
