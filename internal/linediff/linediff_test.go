package linediff_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/internal/linediff"
)

func TestUnified(t *testing.T) {
	for _, c := range []struct{ name, old, next, want string }{
		{"equal", "a\nb\n", "a\nb\n", ""},
		{"come", "", "a\nb\n", "+ a\n+ b\n"},
		{"gone", "a\n", "", "- a\n"},
		{"one line", "1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nx\n6\n7\n8\n9\n", "@@ 2 lines @@\n  3\n  4\n- 5\n+ x\n  6\n  7\n@@ 2 lines @@\n"},
		{"inserted", "a\nb\n", "a\nx\nb\n", "  a\n+ x\n  b\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := linediff.Unified(c.old, c.next); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
}

// What is left without the lines that came is the old text, and without those that
// are gone the new one; short texts have no line left out.
func TestBothTextsAreInIt(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		text := func() string {
			var b strings.Builder
			for range rng.IntN(4) {
				b.WriteString([]string{"a\n", "b\n", "c\n"}[rng.IntN(3)])
			}
			return b.String()
		}
		old, next := text(), text()
		var before, after strings.Builder
		for line := range strings.Lines(linediff.Unified(old, next)) {
			if line[0] != '+' {
				before.WriteString(line[2:])
			}
			if line[0] != '-' {
				after.WriteString(line[2:])
			}
		}
		if old != next && !strings.Contains(linediff.Unified(old, next), "@@") && (before.String() != old || after.String() != next) {
			t.Fatalf("%q to %q: %q", old, next, linediff.Unified(old, next))
		}
	}
}

func TestLongTexts(t *testing.T) {
	old, next := strings.Repeat("a\n", 5000)+"x\n", "y\n"+strings.Repeat("b\n", 5000)
	if got := linediff.Unified(old, next); strings.Count(got, "\n") != 10002 {
		t.Error(strings.Count(got, "\n"))
	}
}
