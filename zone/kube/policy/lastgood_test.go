package policy

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

// TestLastGood: a resource that cannot be used any more stays in force as it was,
// after a restart too, and says so; one that never could has no effect.
func TestLastGood(t *testing.T) {
	k, _ := mesh.KindByName(mesh.KindMeshTimeout)
	const good = `{"to":[{"default":{"idleTimeout":"1s"},"targetRef":{"kind":"Mesh"}}]}`
	const other = `{"to":[{"default":{"idleTimeout":"2s"},"targetRef":{"kind":"Mesh"}}]}`
	const bad = `{"to":[{"default":{"idleTimeout":"soon"},"targetRef":{"kind":"Mesh"}}]}`
	of := func(spec string) *object {
		o := &object{kind: k.Name, spec: []byte(spec)}
		o.Name, o.Namespace, o.UID = "slow", "shop", "u"
		return o
	}
	key := mesh.Key{Kind: k.Name, Mesh: "default", Zone: "east", Name: "slow.shop"}
	zone := func() *Resources {
		return &Resources{cfg: Config{Zone: "east"}, log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1), dirty: make(chan struct{}, 1),
			pending: map[mesh.Key]*mesh.Resource{}, refused: map[mesh.Key]mesh.Problems{}, lastGood: map[mesh.Key]json.RawMessage{}}
	}
	r := zone()
	var have *object
	see := func(o *object) string {
		r.changed(k, []cluster.Change[*object]{{Old: have, New: o}})
		have = o
		if r.pending[key] == nil {
			return ""
		}
		return string(r.pending[key].Spec)
	}
	status := func() mesh.ClusterStatus {
		return statusOf("east", k, have, usability{refused: r.refused[key], lastGood: r.lastGood[key]},
			platform.State{Outcomes: map[mesh.Key]platform.Outcome{key: {Affected: 3, Done: 3}}}, nil, time.Now())
	}
	for _, step := range []struct{ what, spec, force, accepted, kept string }{
		{"good", good, good, "True", ""},
		{"broken", bad, good, "False", good},
		{"broken in another way", `{"to":17}`, good, "False", good},
		{"mended", other, other, "True", ""},
		{"broken again", bad, other, "False", other},
	} {
		if got := see(of(step.spec)); got != step.force {
			t.Errorf("%s: %q is in force", step.what, got)
		}
		s := status()
		if s.Conditions[0].Status != step.accepted || string(s.LastGood) != step.kept || s.Proxies != "3/3" || s.Role == "" {
			t.Errorf("%s: %+v", step.what, s)
		}
		if said := strings.Contains(s.Conditions[0].Message, "last good"); said != (step.kept != "") {
			t.Errorf("%s: %s", step.what, s.Conditions[0].Message)
		}
	}
	// After a restart the status is what tells of it.
	shown := status()
	r, have = zone(), nil
	again := of(bad)
	again.status = &shown
	if got := see(again); got != other {
		t.Errorf("after a restart %q is in force", got)
	}
	// What somebody wrote there is checked like anything else.
	r, have = zone(), nil
	forged := of(bad)
	forged.status = &mesh.ClusterStatus{LastGood: []byte(bad)}
	if got := see(forged); got != "" || len(r.lastGood) > 0 {
		t.Errorf("%q is in force", got)
	}
	// One that goes is gone, and what comes after it inherits nothing.
	r, have = zone(), nil
	see(of(good))
	if got := see(nil); got != "" {
		t.Errorf("deleted, and %q is in force", got)
	}
	if got := see(of(bad)); got != "" || status().Proxies != "" {
		t.Errorf("another one, and %q is in force", got)
	}
}
