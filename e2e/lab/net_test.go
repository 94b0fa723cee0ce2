package lab

import (
	"context"
	"os"
	"testing"
	"time"
)

// TestNet: what is open passes, what is not does not, and a cut is silent.
func TestNet(t *testing.T) {
	if os.Getuid() != 0 || os.Getenv("TOMBOLO_E2E") == "" {
		t.Skip("the laboratory needs root: make e2e")
	}
	n, err := NewNet()
	must(t, err)
	must(t, n.AddZone("a", 1))
	must(t, n.AddZone("b", 2))
	a1, err := n.AddHost("a", "a1", 10)
	must(t, err)
	a2, err := n.AddHost("a", "a2", 11)
	must(t, err)
	b1, err := n.AddHost("b", "b1", 10)
	must(t, err)
	_, err = b1.Start(t.TempDir(), "server", nil, "python3", "-m", "http.server", "8000", "--bind", b1.IP)
	must(t, err)
	_, err = a2.Start(t.TempDir(), "server", nil, "python3", "-m", "http.server", "8000", "--bind", a2.IP)
	must(t, err)
	reaches := func(h *Host, ip string) bool {
		return Status(200)(Get(h.Client(500*time.Millisecond), "http://"+ip+":8000/"))
	}
	eventually := func(what string, ok func() bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for !ok() {
			if ctx.Err() != nil {
				t.Fatalf("%s: not within a minute", what)
			}
		}
	}
	eventually("a neighbour answers", func() bool { return reaches(a1, a2.IP) })
	if reaches(a1, b1.IP) {
		t.Error("another zone answered before it was opened")
	}
	must(t, n.Open(b1))
	eventually("an opened host answers", func() bool { return reaches(a1, b1.IP) })
	must(t, n.Cut("a", "b"))
	if reaches(a1, b1.IP) {
		t.Error("a cut zone answered")
	}
	must(t, n.Heal("a", "b"))
	eventually("a healed zone answers", func() bool { return reaches(a1, b1.IP) })
	must(t, a2.Unplug())
	if reaches(a1, a2.IP) {
		t.Error("an unplugged host answered")
	}
	must(t, a2.Plug())
	eventually("a plugged host answers", func() bool { return reaches(a1, a2.IP) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
