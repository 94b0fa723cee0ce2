package global

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/embedded"
	"github.com/tombolo-mesh/tombolo/mesh"
)

func TestHistoryIsBoundedBySizeAndAge(t *testing.T) {
	st, err := embedded.Open(embedded.Config{Path: filepath.Join(t.TempDir(), "s.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	var times []time.Time
	for i := range 20 {
		at, err := st.Write(t.Context(), "user:ann", []store.Op{{Resource: mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "m"}, Spec: []byte{'1', byte('0' + i%10)}}}})
		if err != nil {
			t.Fatal(err)
		}
		list, err := st.Changes(t.Context(), at.Revision-1, 1)
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, list[0].Time)
	}
	h := newHistorian(Config{HistorySize: 15, HistoryAge: time.Hour}, st, prometheus.NewRegistry())
	begins := func(want mesh.Revision) {
		t.Helper()
		if err := h.compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := st.Begin(t.Context()); err != nil || got != want {
			t.Errorf("the log begins after %d, %v, want %d", got, err, want)
		}
	}
	begins(5) // 15 of 20
	h.now = func() time.Time { return times[9].Add(time.Hour) }
	begins(9) // the tenth is an hour old, not older
	h.size = 0
	h.now = func() time.Time { return times[19].Add(time.Hour + time.Second) }
	begins(20)
	begins(20)
}
