package budget

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRowsAreReadAsTheyWereTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rows")
	t.Setenv(Variable, path)
	if rows, err := Read(path); err != nil || len(rows) > 0 {
		t.Fatalf("before the first: %v, %v", rows, err)
	}
	// A budget of nothing is one.
	want := []Row{{What: "sent again", Most: new(0.0)}, {What: "took", Got: 1.5, Most: new(2.0), Unit: "s"}, {What: "beside", Got: 3}}
	for _, r := range want {
		if err := Tell(r); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
