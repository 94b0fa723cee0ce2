package agents

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

func randomTable(rnd *rand.Rand, size int) *Names {
	var out []*agentv1.Name
	for i := range size {
		if rnd.IntN(3) > 0 {
			out = append(out, &agentv1.Name{Name: fmt.Sprintf("s%d.mesh", i), Addresses: []string{fmt.Sprintf("241.0.0.%d", rnd.IntN(3))}, TtlSeconds: 30})
		}
	}
	rnd.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return NewNames(out)
}

// take is what an agent does, through the wire.
func take(t *testing.T, table map[string]string, frames []*agentv1.ZoneFrame) {
	t.Helper()
	for i, f := range frames {
		text, err := proto.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		var back agentv1.ZoneFrame
		if err := proto.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		n := back.GetNames()
		if n == nil {
			t.Fatalf("%v is no frame of names", &back)
		}
		if len(n.Set)+len(n.Removed) > maxNames || n.More != (i < len(frames)-1) || n.Reset_ && i > 0 {
			t.Fatalf("part %d of %d has %d names, more %v, reset %v", i, len(frames), len(n.Set)+len(n.Removed), n.More, n.Reset_)
		}
		if n.Reset_ {
			clear(table)
		}
		for _, x := range n.Set {
			table[x.Name] = fmt.Sprint(x.Addresses, x.TtlSeconds)
		}
		for _, x := range n.Removed {
			delete(table, x)
		}
	}
}

// Whichever tables an agent misses, it ends with the newest.
func TestAgentsCatchUp(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var board Board
	type agent struct {
		names namesOf
		table map[string]string
	}
	var fleet []*agent
	for range 5 {
		fleet = append(fleet, &agent{names: namesOf{board: &board, mesh: "default"}, table: map[string]string{}})
	}
	for step := range 60 {
		size := 40
		if step%10 == 9 {
			size = 3500 // several frames
		}
		newest := randomTable(rnd, size)
		board.Post("default", newest)
		board.Post("other", randomTable(rnd, 3))
		want := map[string]string{}
		take(t, want, mustFrames(t, newest))
		for _, a := range fleet {
			if rnd.IntN(3) == 0 {
				continue // slow
			}
			frames, err := a.names.next()
			if err != nil {
				t.Fatal(err)
			}
			take(t, a.table, frames)
			if diff := cmp.Diff(want, a.table); diff != "" {
				t.Fatal(diff)
			}
		}
	}
}

func mustFrames(t *testing.T, n *Names) []*agentv1.ZoneFrame {
	t.Helper()
	frames, err := n.frames(nil)
	if err != nil {
		t.Fatal(err)
	}
	return frames
}

func TestNamesAreEncodedOnce(t *testing.T) {
	var board Board
	first := NewNames([]*agentv1.Name{{Name: "a.mesh", Addresses: []string{"241.0.0.1"}}})
	board.Post("default", first)
	a, b := namesOf{board: &board, mesh: "default"}, namesOf{board: &board, mesh: "default"}
	for range 2 {
		x, _ := a.next()
		y, _ := b.next()
		if len(x) != 1 || len(y) != 1 || x[0] != y[0] {
			t.Fatalf("%v and %v are not the same frame", x, y)
		}
		if more, _ := a.next(); more != nil {
			t.Errorf("%v is sent again", more)
		}
		board.Post("default", NewNames([]*agentv1.Name{{Name: "a.mesh", Addresses: []string{"241.0.0.2"}}}))
	}
	_, changed := board.Read("default")
	board.Post("default", NewNames([]*agentv1.Name{{Name: "a.mesh", Addresses: []string{"241.0.0.2"}}}))
	select {
	case <-changed:
		t.Error("agents are woken for nothing")
	default:
	}
	// A mesh without services has an empty table, which is not none.
	board.Post("empty", NewNames(nil))
	c := namesOf{board: &board, mesh: "empty"}
	if frames, _ := c.next(); len(frames) != 1 {
		t.Errorf("%v for an empty table", frames)
	}
	d := namesOf{}
	if frames, _ := d.next(); frames != nil || d.changed != nil {
		t.Error("who did not ask is sent names")
	}
}
