package golden

import (
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

func archive(text string) *txtar.Archive { return txtar.Parse([]byte(text)) }

func TestCompareFindsEveryDifference(t *testing.T) {
	a := archive("-- in --\nx\n-- want --\none\n-- want-gone --\ntwo\n")
	got := compare(a, map[string]string{"want": "other", "want-new": "three"}, false)
	if len(got) != 3 {
		t.Fatalf("want a difference, a missing file and a stale file, got %d: %s", len(got), strings.Join(got, "\n"))
	}
	if got := compare(a, map[string]string{"want": "one", "want-gone": "two"}, false); len(got) != 0 {
		t.Fatalf("equal results, yet: %v", got)
	}
}

func TestUpdateRewrites(t *testing.T) {
	a := archive("# about\n-- in --\nx\n-- want --\none\n-- want-gone --\ntwo\n")
	compare(a, map[string]string{"want": "other", "want-new": "three"}, true)
	want := "# about\n-- in --\nx\n-- want --\nother\n-- want-new --\nthree\n"
	if got := string(txtar.Format(a)); got != want {
		t.Fatalf("got:\n%s\nwant:\n%s", got, want)
	}
}
