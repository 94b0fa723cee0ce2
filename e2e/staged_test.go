package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestStaged: a change in stages reaches east alone; global is killed in the
// middle, and when proxies of east are gone everything is returned. West never
// sees it, and no call fails throughout.
func TestStaged(t *testing.T) {
	f := served(t)
	east, west := f.zones["east"], f.zones["west"]
	_, spare := f.startBackend(east, "default", 1)
	f.connected(east, 4)
	f.apply(timeout(21 * time.Second))
	traffic := east.web.Send(remote, 20)
	from := time.Now()
	limit := func(z *zone, want string) bool {
		out, err := f.tryCLI("", "inspect", "dataplane", "web-"+z.name, "config", "--zone", z.name)
		return err == nil && strings.Contains(out, want)
	}
	f.cli(timeout(29*time.Second), "apply", "-f", "-", "--stages", "east,west", "--pause", "10m", "--abort-on", "gone>0", "--rollout", "slow", "--yes")
	took := f.eventually(10*time.Second, "the first stage has it", func() bool { return limit(east, `"29s"`) })
	t.Logf("in force in the first stage after %s", took.Round(time.Millisecond))

	f.global.Kill()
	f.passes(traffic, time.Second)
	f.startGlobal()
	f.eventually(20*time.Second, "the stage stays where it is", func() bool {
		out, err := f.tryCLI("", "rollout", "status", "slow")
		return err == nil && strings.Contains(out, "running, stage 1 of 2: pause")
	})
	if !limit(east, `"29s"`) || limit(west, `"29s"`) {
		t.Error("after the restart of global east must have it, and west not")
	}

	spare.Kill()
	took = f.eventually(30*time.Second, "it is returned", func() bool {
		out, err := f.tryCLI("", "rollout", "status", "slow")
		return err == nil && strings.Contains(out, "aborted, stage 1 of 2: gone>0")
	})
	took += f.eventually(10*time.Second, "east has back what it had", func() bool { return limit(east, `"21s"`) && !limit(east, `"29s"`) })
	t.Logf("returned %s after a proxy was gone", took.Round(time.Millisecond))
	if limit(west, `"29s"`) {
		t.Error("west has what never came to its stage")
	}
	traffic.Stop()
	good, bad := traffic.Count(from, time.Now(), fromZone("west"))
	f.report("east to west throughout", good, bad, 0)
}
