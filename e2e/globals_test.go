package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
)

// twin is a fleet with two globals on one database: lab on the host hub and
// lab2 on hub-2, which are also the contexts of the command line.
type twin struct {
	*fleet
	hosts map[string]*lab.Host
	procs map[string]*lab.Process
	ids   map[string]string // by context, the instance that answers
	limit time.Duration     // of the last change that was waited for
	round int               // of writers, so that each has names of its own
}

// newTwin starts both before the zones, which know both addresses.
func newTwin(t *testing.T) *twin {
	t.Helper()
	w := &twin{hosts: map[string]*lab.Host{}, procs: map[string]*lab.Process{}, ids: map[string]string{}}
	w.fleet = newFleetWith(t, func(f *fleet) {
		w.fleet = f
		second, err := f.net.AddHost("hub", "hub-2", 3)
		must(t, err)
		must(t, f.net.Open(second))
		dsn, err := url.Parse(f.db.DSN)
		must(t, err)
		must(t, second.Relay("127.0.0.1:5432", dsn.Host))
		w.hosts = map[string]*lab.Host{"lab": f.hub, "lab2": second}
		w.procs["lab"] = f.global
		// What instances share beside the database: the authority and the keys.
		must(t, os.CopyFS(f.path("global-2", "tls"), os.DirFS(f.path("global", "tls"))))
		w.startSecond()
		f.cli("", "config", "set-context", "lab2", "--server", "https://"+second.IP+":"+apiPort, "--ca", f.path("global", "ca.pem"), "--token-file", f.path("global", "admin-token"))
		f.globals = f.hub.IP + ":" + syncPort + "," + second.IP + ":" + syncPort
	})
	w.fleet.serve()
	return w
}

func (w *twin) startSecond() {
	w.t.Helper()
	h := w.hosts["lab2"]
	p, err := h.Start(w.dir, "global-2", nil, w.bin, "global", "--data-dir", w.path("global-2"), "--postgres", w.dsn, "--secrets-key", "file:"+w.path("global", "secrets.key"),
		"--api-address", h.IP+":"+apiPort, "--zone-address", h.IP+":"+syncPort)
	must(w.t, err)
	w.procs["lab2"] = p
	w.fleet.procs["global-2"] = p
	w.listens(h, p, h.IP+":"+apiPort, h.IP+":"+syncPort)
}

// at runs the command line against one of the globals, on its host: the other's may be
// cut off.
func (w *twin) at(context, stdin string, args ...string) (string, error) {
	return w.hosts[context].Run([]string{"TOMBOLO_CONFIG=" + w.path("config.yaml")}, stdin, w.bin, append([]string{"--context", context}, args...)...)
}

// identify reads the ids of the instances, and that each reaches the other.
func (w *twin) identify() {
	w.t.Helper()
	for context := range w.hosts {
		w.eventually(60*time.Second, "the instances of global reach each other, seen from "+context, func() bool {
			out, err := w.at(context, "", "get", "instances", "-o", "json")
			var list []struct {
				ID              string
				Self, Connected bool
			}
			if err != nil || json.Unmarshal([]byte(out), &list) != nil {
				return false
			}
			connected := 0
			for _, i := range list {
				if i.Self {
					w.ids[context] = i.ID
				}
				if i.Connected {
					connected++
				}
			}
			return connected == 2
		})
	}
}

// home is the instance that each zone is connected to, as one global says; absent
// for a zone that is offline or has not all its proxies.
func (w *twin) home(context string) map[string]string {
	out, err := w.at(context, "", "get", "zones")
	if err != nil {
		return nil
	}
	at := map[string]string{}
	for _, line := range strings.Split(out, "\n")[1:] {
		if f := strings.Fields(line); len(f) > 4 && f[1] == "online" && (f[3] == "3/3" || f[3] == "4/4") { // the fourth starts under way
			at[f[0]] = f[len(f)-1]
		}
	}
	return at
}

// answersOf asserts that a global answers for both zones, wherever they are: wait,
// status and history, inspection of proxies and of a policy, explanation and plan.
func (w *twin) answersOf(context string) {
	w.t.Helper()
	w.limit += time.Second
	applied, err := w.at(context, timeout(30*time.Second+w.limit), "apply", "-f", "-", "--wait=60s")
	if err != nil {
		w.t.Errorf("apply --wait at %s: %v", context, err)
	}
	_, revision, _ := strings.Cut(applied, "revision ")
	revision, _, _ = strings.Cut(revision, "\n")
	for zone := range w.zones {
		for _, what := range []string{"config", "clusters"} {
			out, err := w.at(context, "", "inspect", "dataplane", "web-"+zone, what, "--zone", zone)
			if err != nil || !strings.Contains(out, "kri_") {
				w.t.Errorf("inspect %s of web-%s at %s: %v, %d bytes", what, zone, context, err, len(out))
			}
		}
	}
	for _, verb := range [][]string{{"inspect", "policy", "meshtimeout/a-probe"}, {"plan", "-f", "-"}, {"rollout", "history"}, {"rollout", "status", revision}, {"get", "changes"}, {"explain", "web-east.east", "backend"}} {
		out, err := w.at(context, timeout(90*time.Second), verb...)
		if verb[0] == "plan" && strings.Contains(out, "east") && strings.Contains(out, "west") && !strings.Contains(out, "offline") {
			continue // exits with 1, since there is a difference
		}
		if err != nil || len(out) == 0 {
			w.t.Errorf("%s at %s: %v\n%s", strings.Join(verb, " "), context, err, out)
		}
	}
}

// writer applies policies one by one at a global until it is stopped, and keeps
// the names of those that were acknowledged.
type writer struct {
	mu    sync.Mutex
	acked []string
	stop  func()
}

func (w *twin) writes(context string) *writer {
	w.round++
	prefix := fmt.Sprintf("write-%s-%d", context, w.round)
	out, stop, done := &writer{}, make(chan struct{}), make(chan struct{})
	out.stop = sync.OnceFunc(func() { close(stop); <-done })
	w.t.Cleanup(out.stop)
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			name := fmt.Sprintf("%s-%d", prefix, n)
			if _, err := w.at(context, fmt.Sprintf(`type: MeshTimeout
mesh: default
name: %s
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: nobody}}
  to:
    - targetRef: {kind: Mesh}
      default: {idleTimeout: 5s}
`, name), "apply", "-f", "-"); err == nil {
				out.mu.Lock()
				out.acked = append(out.acked, name)
				out.mu.Unlock()
			}
		}
	}()
	return out
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// TestTwoGlobals is (l): two globals on one database answer alike for zones that
// either may be connected to. The one that east is connected to is killed while
// both write, under traffic; the other has the zones within 2 s, with everything
// that was acknowledged, once, and without a snapshot. Then one hangs for a while, and the
// other's host is cut off, which the zones notice as soon.
func TestTwoGlobals(t *testing.T) {
	w := newTwin(t)
	check := w.denied()
	east := w.zones["east"]
	traffic := east.web.Send(remote, 20)
	from := time.Now()
	w.identify()
	for context := range w.hosts {
		w.eventually(60*time.Second, "both zones are known at "+context, func() bool { return len(w.home(context)) == 2 })
		w.answersOf(context)
	}
	home := w.home("lab")
	t.Logf("zones are connected to %v", home)
	victim, survivor := "lab", "lab2"
	if home["east"] == w.ids["lab2"] {
		victim, survivor = "lab2", "lab"
	}
	snapshots := map[string]int{}
	for name, z := range w.zones {
		snapshots[name] = strings.Count(read(t, z.control.Log), "snapshot applied")
	}

	one, two := w.writes(victim), w.writes(survivor)
	w.eventually(60*time.Second, "both write", func() bool { return one.count() >= 10 && two.count() >= 10 })
	w.procs[victim].Kill()
	killed := time.Now()
	w.eventually(60*time.Second, "both zones are at the survivor", func() bool {
		at := w.home(survivor)
		return at["east"] == w.ids[survivor] && at["west"] == w.ids[survivor]
	})
	took := time.Since(killed)
	t.Logf("the survivor has both zones, with all proxies, %s after the kill", took.Round(time.Millisecond))
	w.tell("a global is killed: its zones are back at another, with all proxies", took, zoneBack)
	if took > zoneBack*sharedMachine {
		t.Errorf("the zones were back after %s, the budget is %s × %d", took, zoneBack, sharedMachine)
	}
	more := two.count()
	w.eventually(60*time.Second, "the survivor writes on", func() bool { return two.count() > more+5 })
	one.stop()
	two.stop()
	w.answersOf(survivor)
	w.writtenOnce(survivor, append(one.acked, two.acked...))
	for name, z := range w.zones {
		if n := strings.Count(read(t, z.control.Log), "snapshot applied"); n != snapshots[name] {
			t.Errorf("zone %s took %d snapshots more: it was sent what it had", name, n-snapshots[name])
		}
	}

	// It comes back, and answers at once for zones that stay where they are.
	if victim == "lab" {
		w.startGlobal()
		w.procs["lab"] = w.global
	} else {
		w.startSecond()
	}
	w.identify()
	w.eventually(60*time.Second, "both zones are known at the one that came back", func() bool {
		at := w.home(victim)
		return at["east"] == w.ids[survivor] && at["west"] == w.ids[survivor]
	})
	w.answersOf(victim)
	w.hangs(survivor, victim)
	w.vanishes(victim, survivor)
	traffic.Stop()
	good, bad := traffic.Count(from, time.Now(), fromZone("west"))
	w.report("east to west throughout", good, bad, 0)
	check()
	if s := w.answers(w.zones["west"].web, remote, http.StatusForbidden); s.Status != http.StatusForbidden {
		t.Errorf("west's web: %d", s.Status)
	}
}

// hangs stops one global as it is, with the zones' streams open and perhaps a
// write on its way. The zones notice and go to the other; once it goes on, what it
// still has of them counts for nothing.
func (w *twin) hangs(one, other string) {
	w.t.Helper()
	first, second := w.writes(one), w.writes(other)
	w.eventually(60*time.Second, "both write", func() bool { return first.count() >= 3 && second.count() >= 3 })
	began := time.Now()
	must(w.t, w.procs[one].Pause())
	w.leave("hangs", other)
	w.notices("hangs", one, other, began)
	more := second.count()
	w.eventually(60*time.Second, "the one that does not hang writes on", func() bool { return second.count() > more+3 })
	west := w.zones["west"]
	w.startBackend(west, "default", 1)
	w.instance(w.zones["east"].web, remoteTCP, backendName(west, 1))
	must(w.t, w.procs[one].Resume())
	more = first.count()
	w.eventually(60*time.Second, "the one that hung writes on", func() bool { return first.count() > more+3 })
	first.stop()
	second.stop()
	w.writtenOnce(other, append(first.acked, second.acked...))
	w.eventually(60*time.Second, "the one that hung knows where the zones are", func() bool {
		out, err := w.at(one, "", "get", "zones")
		return err == nil && strings.Count(out, w.ids[other]) == 2 && strings.Count(out, " online ") == 2
	})
	w.identify()
	if out, err := w.at(one, "", "get", "dataplanes", "-m", "default"); err != nil || !strings.Contains(out, backendName(west, 1)) {
		w.t.Errorf("what west told meanwhile is lost: %v\n%s", err, out)
	}
	w.instance(w.zones["east"].web, remoteTCP, backendName(west, 1))
}

// vanishes cuts the host of one global off: what is sent there is lost, and nothing
// says so.
func (w *twin) vanishes(one, other string) {
	w.t.Helper()
	began := time.Now()
	must(w.t, w.hosts[one].Unplug())
	w.leave("is cut off", other)
	w.notices("is cut off", one, other, began)
	must(w.t, w.hosts[one].Plug())
	w.identify()
	w.answersOf(one)
}

// leave waits until the zones have left one global for the other.
func (w *twin) leave(why, other string) {
	w.t.Helper()
	began := time.Now()
	w.eventually(60*time.Second, "both zones are at the other", func() bool {
		at := w.home(other)
		return at["east"] == w.ids[other] && at["west"] == w.ids[other]
	})
	took := time.Since(began)
	w.t.Logf("the zones have left the one that %s after %s", why, took.Round(time.Millisecond))
	w.tell("a global "+why+": its zones are back at another", took, zoneBack)
	if took > zoneBack*sharedMachine {
		w.t.Errorf("the zones have left the one that %s after %s, the budget is %s × %d", why, took, zoneBack, sharedMachine)
	}
}

// hangNoticed is how soon an instance of global knows that another hangs.
const hangNoticed = 4 * time.Second

// notices asserts that one global knows soon that it does not reach the other.
func (w *twin) notices(why, one, other string, began time.Time) {
	w.t.Helper()
	w.eventually(60*time.Second, "the other instance knows of the one that "+why, func() bool {
		out, err := w.at(other, "", "get", "instances", "-o", "json")
		var list []struct {
			ID        string
			Connected bool
			Since     time.Time
		}
		if err != nil || json.Unmarshal([]byte(out), &list) != nil {
			return false
		}
		for _, i := range list {
			if i.ID == w.ids[one] && !i.Connected && i.Since.After(began) {
				took := i.Since.Sub(began)
				w.t.Logf("the other instance has noticed after %s", took.Round(time.Millisecond))
				w.tell("a global "+why+": the other instance notices", took, hangNoticed)
				if took > 2*hangNoticed {
					w.t.Errorf("the other instance has noticed after %s, the budget is %s × 2", took, hangNoticed)
				}
				return true
			}
		}
		return false
	})
}

// writtenOnce asserts that what was acknowledged is there, and is one change each.
func (w *twin) writtenOnce(context string, names []string) {
	w.t.Helper()
	out, err := w.at(context, "", "get", "changes", "--limit", "5000", "-o", "json")
	must(w.t, err)
	var writes struct {
		Items []struct{ Changes []struct{ Name string } }
	}
	must(w.t, json.Unmarshal([]byte(out), &writes))
	times := map[string]int{}
	for _, write := range writes.Items {
		for _, c := range write.Changes {
			times[c.Name]++
		}
	}
	lost, doubled := 0, 0
	for _, name := range names {
		switch n := times[name]; {
		case n == 0:
			lost++
		case n > 1:
			doubled++
		}
	}
	w.t.Logf("of %d acknowledged writes %d are lost and %d are there more than once", len(names), lost, doubled)
	if lost > 0 || doubled > 0 {
		w.t.Error("acknowledged writes must be there, once")
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}
