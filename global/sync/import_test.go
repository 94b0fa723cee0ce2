package sync

import (
	"fmt"
	"strings"
	"testing"

	peersv1 "github.com/tombolo-mesh/tombolo/proto/peers/v1"
)

// What another instance tells is bounded, as what zones tell themselves.
func TestImportIsBounded(t *testing.T) {
	s := New(Config{})
	for what, m := range map[string]*peersv1.Member{
		"no name":          {Connected: true},
		"a name that none": {Zone: "East!", Connected: true},
		"a long name":      {Zone: strings.Repeat("a", 254), Connected: true},
		"a long instance":  {Zone: "east", Instance: strings.Repeat("a", maxMemberID+1), Connected: true},
		"a long version":   {Zone: "east", Version: strings.Repeat("a", maxMemberID+1), Connected: true},
	} {
		if s.Import("other", m); len(s.zones) > 0 {
			t.Fatalf("%s is taken", what)
		}
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
