package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/global/sync"
)

func TestRolloutIsStartedAndHoldsItsKeys(t *testing.T) {
	r := newRig(t)
	r.fleet.zones = []sync.ZoneStatus{{Name: "east", Online: true, Connected: 2}, {Name: "west", Online: true}}
	r.put("a", "1s")
	start := "/rollouts?stages=east,west&pause=5m&abortOn=rejected%3E0,gone%3E1&name=slow"
	body := "[" + timeout("a", "9s") + "," + timeout("new", "9s") + "]"
	for query, want := range map[string]string{
		"stages=east,east": "two stages", "stages=north": "no zone", "stages=": "zones in order", "stages=east&pause=x": "duration",
		"stages=east&abortOn=cpu>3": "rejected>N", "stages=east&abortOn=success>99&pause=1m": "success<P", "stages=east&abortOn=success<101&pause=1m": "at most 100",
		"stages=east&abortOn=success<99&pause=9s": "at least 10s", "stages=east&name=A_b": "name",
	} {
		if a := r.want(http.StatusBadRequest, "POST", "/rollouts?"+strings.NewReplacer(">", "%3E", "<", "%3C").Replace(query), r.author, body); !strings.Contains(string(a.body), want) {
			t.Errorf("%s: %s", query, a.body)
		}
	}
	r.want(http.StatusUnprocessableEntity, "POST", start, r.author, `{"type":"Mesh","name":"default"}`)
	r.want(http.StatusForbidden, "POST", start, r.reader, body)
	r.want(200, "POST", start+"&dryRun=true", r.author, body)
	r.want(http.StatusNotFound, "GET", "/rollouts/slow", r.reader, "")
	var v RolloutView
	r.want(200, "POST", start, r.author, body).decode(t, &v)
	if v.Phase != "running" || v.Stage != 1 || len(v.Resources) != 2 || v.Author != "user:ann" {
		t.Errorf("%+v", v)
	}
	// Nothing is in the store yet, and nobody else writes it.
	if got := r.timeoutOf("a"); got != "1s" {
		t.Errorf("a is %s", got)
	}
	for _, name := range []string{"a", "new"} {
		a := r.want(http.StatusConflict, "PUT", "/meshes/default/meshtimeouts/"+name, r.author, timeout(name, "3s"))
		if !strings.Contains(string(a.body), `rollout \"slow\"`) {
			t.Errorf("the rollout must be named: %s", a.body)
		}
	}
	r.want(http.StatusConflict, "DELETE", "/meshes/default/meshtimeouts/a", r.author, "")
	r.want(http.StatusConflict, "DELETE", "/meshes/default", r.author, "")
	r.want(http.StatusConflict, "POST", "/rollouts?stages=east", r.author, timeout("a", "4s"))
	r.want(200, "POST", "/rollouts?stages=west", r.author, timeout("other", "4s")) // its keys are others
	r.want(http.StatusConflict, "POST", fmt.Sprintf("/changes/%d/undo", v.Revision), r.author, "")
	r.put("b", "1s")

	r.want(200, "POST", "/rollouts/slow/promote", r.author, "").decode(t, &v)
	promoted := v.Revision
	r.want(200, "POST", "/rollouts/slow/promote", r.author, "").decode(t, &v)
	if v.Revision != promoted {
		t.Errorf("promoted twice: revision %d, then %d", promoted, v.Revision)
	}
	r.want(200, "POST", "/rollouts/slow/abort", r.author, "").decode(t, &v)
	if v.Phase != "aborted" || v.Reason != "by user:ann" {
		t.Errorf("%+v", v)
	}
	r.want(http.StatusConflict, "POST", "/rollouts/slow/abort", r.author, "")
	r.put("a", "3s")
	var list RolloutList
	r.want(200, "GET", "/rollouts", r.reader, "").decode(t, &list)
	if len(list.Items) != 2 || list.Items[1].Name != "slow" {
		t.Errorf("%+v", list)
	}
}

// The way back lets in whom a staged change shuts out: it says so, and asks only the
// zones that have the change.
func TestAbortSaysWhomItLetsIn(t *testing.T) {
	r, zones := planRig(t)
	r.fleet.zones = []sync.ZoneStatus{{Name: "east", Online: true}, {Name: "west", Online: true}}
	r.want(201, "PUT", "/meshes/default/meshtrafficpermissions/d", r.author, permit("d", allowAnybody))
	start := func(name, spec string) {
		t.Helper()
		r.want(200, "POST", "/rollouts?stages=east,west&pause=5m&weakening=accept&name="+name, r.author, permit("d", spec))
		clear(zones.asked)
	}
	start("shut", denyWeb)
	zones.answers["east"] = opened()
	var p Problem
	r.want(409, "POST", "/rollouts/shut/abort?weakening=refuse", r.author, "").decode(t, &p)
	if p.Type != WeakensType || len(p.Invalid) != 1 || p.Invalid[0].Reason != wayIn {
		t.Errorf("%+v", p)
	}
	if told := zones.told("east"); len(told) != 1 || !strings.Contains(told[0], "MeshTrafficPermission d") {
		t.Errorf("east was asked about %v", told)
	}
	if told := zones.told("west"); told != nil {
		t.Errorf("west, which does not have it, was asked about %v", told)
	}
	var v RolloutView
	r.want(200, "GET", "/rollouts/shut", r.reader, "").decode(t, &v)
	if v.Phase != "running" {
		t.Fatalf("refused, and %s", v.Phase)
	}
	v = RolloutView{}
	r.want(200, "POST", "/rollouts/shut/abort", r.author, "").decode(t, &v)
	if v.Phase != "aborted" || len(v.Warnings) != 1 || v.Warnings[0] != wayIn {
		t.Errorf("%+v", v)
	}

	start("more", allowAnybody+`,"allowWithShadowDeny":[{"sni":{"type":"Exact","value":"x"}}]`) // what comes back opens nothing
	r.want(200, "POST", "/rollouts/more/abort?weakening=refuse", r.author, "")
	start("accepted", denyWeb)
	r.want(200, "POST", "/rollouts/accepted/abort?weakening=accept", r.author, "")
	if len(zones.asked) > 0 {
		t.Errorf("zones were asked: %v", zones.asked)
	}
}
