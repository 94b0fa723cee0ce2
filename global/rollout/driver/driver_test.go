package driver

import (
	"testing"

	"github.com/tombolo-mesh/tombolo/global/rollout"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
)

type fleet []sync.ZoneStatus

func (f fleet) Zones() []sync.ZoneStatus { return f }

func (f fleet) Change(rev mesh.Revision) sync.ChangeStatus { return sync.ChangeStatus{Revision: rev} }

// After a restart of global a zone is back before it tells of its proxies: none of
// them is gone, and none is there to be counted as what a stage began with.
func TestProxiesOfAZoneThatHasNotReportedAreNotGone(t *testing.T) {
	r := rollout.Rollout{Revision: 7, Spec: rollout.Spec{Stages: [][]string{{"east"}}},
		Status: rollout.Status{Phase: rollout.Running, Connected: map[string]int{"east": 5}}}
	for _, c := range []struct {
		zone sync.ZoneStatus
		gone int
		has  bool
	}{
		{sync.ZoneStatus{Name: "east", Online: true}, 0, false},
		{sync.ZoneStatus{Name: "east", Online: true, Reported: true, Connected: 2}, 3, true},
		{sync.ZoneStatus{Name: "east", Reported: true, Connected: 2}, 0, false},
	} {
		if o := Observe(fleet{c.zone}, r); o.Gone != c.gone {
			t.Errorf("%+v: %d are gone, want %d", c.zone, o.Gone, c.gone)
		}
		if _, has := Connected(fleet{c.zone})["east"]; has != c.has {
			t.Errorf("%+v: counted %t, want %t", c.zone, has, c.has)
		}
	}
}
