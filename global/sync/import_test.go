package sync

import (
	"fmt"
	"strings"
	"testing"

	peersv1 "github.com/tombolo-mesh/tombolo/proto/peers/v1"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// What another instance tells is bounded, as what zones tell themselves.
func TestImportIsBounded(t *testing.T) {
	s := New(Config{})
	change := func(c *zonesyncv1.ChangeProgress) []*peersv1.Progress { return []*peersv1.Progress{{}, {Change: c}} }
	for what, m := range map[string]*peersv1.Member{
		"no name":          {Connected: true},
		"a name that none": {Zone: "East!", Connected: true},
		"a long name":      {Zone: strings.Repeat("a", 254), Connected: true},
		"a long instance":  {Zone: "east", Instance: strings.Repeat("a", maxMemberID+1), Connected: true},
		"a long version":   {Zone: "east", Version: strings.Repeat("a", maxMemberID+1), Connected: true},
		"many problems":    {Zone: "east", Connected: true, Report: &zonesyncv1.Report{Problems: make([]*zonesyncv1.ResourceProblem, zonesync.MaxReportItems+1)}},
		"many names":       {Zone: "east", Connected: true, Changes: change(&zonesyncv1.ChangeProgress{BehindNames: make([]string, zonesync.MaxReportNames+1)})},
		"many rejections":  {Zone: "east", Connected: true, Changes: change(&zonesyncv1.ChangeProgress{Rejections: make([]*zonesyncv1.Rejection, zonesync.MaxReportNames+1)})},
	} {
		if s.Import("other", m); len(s.zones) > 0 {
			t.Fatalf("%s is taken", what)
		}
	}
	long := strings.Repeat("x", 10_000)
	s.Import("other", &peersv1.Member{Zone: "zone-0", Instance: "i", Connected: true,
		Report:  &zonesyncv1.Report{Problems: []*zonesyncv1.ResourceProblem{{Reason: long}}, Changes: make([]*zonesyncv1.ChangeProgress, 5)},
		Changes: change(&zonesyncv1.ChangeProgress{Revision: 1, Rejections: []*zonesyncv1.Rejection{{Reason: long}}})})
	if m := s.zones["zone-0"].leader; len(m.report.Problems[0].Reason) > 4096+3 || len(m.changes[0].Rejections[0].Reason) > 4096+3 || m.report.Changes != nil {
		t.Errorf("more is kept than a zone may say: %d and %d bytes, %d changes", len(m.report.Problems[0].Reason), len(m.changes[0].Rejections[0].Reason), len(m.report.Changes))
	}
	for i := range maxImported + 10 {
		s.Import("other", &peersv1.Member{Zone: fmt.Sprint("zone-", i), Instance: "i", Connected: true})
	}
	if len(s.zones) != maxImported {
		t.Errorf("%d zones are known of %d told, at most %d should be", len(s.zones), maxImported+10, maxImported)
	}
	if s.Import("other", &peersv1.Member{Zone: "zone-1", Instance: "j", Session: 2, Connected: true}); s.zones["zone-1"].leader.instance != "j" {
		t.Error("what is told of a zone that is known is not taken")
	}
}
