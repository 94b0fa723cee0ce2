package xdstest_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/xds/delta"
	"github.com/tombolo-mesh/tombolo/xds/xdstest"
)

// refuseBad refuses what has a bad version, see fleet.bad.
func refuseBad(r *discoveryv3.Resource) string {
	if strings.HasSuffix(r.Version, "66") {
		return "malformed"
	}
	return ""
}

// fleet is a random history of groups whose proxies refuse, move, come and go.
type fleet struct {
	w        *world
	r        *rand.Rand
	step     int
	services map[string]map[string][3]int // by group, by name: version of cluster, endpoints and route
	odd      map[string]map[string]int    // by group: clusters that nothing refers to
	group    map[string]string            // of a node
	own      map[string]int               // version of a node's own secret
	fakes    map[string]*xdstest.Envoy
	cuts     map[string]func()
}

// TestRandomFleet: whatever happens, what a proxy refuses is told exactly, holds up
// nothing else, and when it heals all run what is published.
func TestRandomFleet(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			run(t, func(w *world) {
				f := &fleet{w: w, r: rand.New(rand.NewPCG(seed, 7)), services: map[string]map[string][3]int{}, odd: map[string]map[string]int{},
					group: map[string]string{}, own: map[string]int{}, fakes: map[string]*xdstest.Envoy{}, cuts: map[string]func(){}}
				f.play()
			})
		})
	}
}

func (f *fleet) play() {
	for _, g := range []string{"g0", "g1"} {
		f.services[g], f.odd[g] = map[string][3]int{}, map[string]int{}
		f.publish(g)
	}
	for i := range 4 {
		n := fmt.Sprint("n", i)
		f.fakes[n] = xdstest.New(xdstest.Config{Node: n, Refuse: refuseBad, Late: i%2 == 0})
		f.assign(n)
	}
	for range 50 {
		f.step++
		f.act()
		switch f.r.IntN(4) {
		case 0:
			synctest.Wait()
		case 1:
			time.Sleep(time.Duration(f.r.IntN(1500)) * time.Millisecond) // the bubble's time
		}
	}
	for n := range f.fakes {
		if f.cuts[n] == nil {
			f.cuts[n] = f.w.connect(f.fakes[n])
		}
	}
	f.check("in the end")
	for _, g := range []string{"g0", "g1"} {
		f.step++
		for name, v := range f.services[g] {
			f.services[g][name] = [3]int{v[0], f.step * 100, f.step * 100}
		}
		for name := range f.odd[g] {
			f.odd[g][name] = f.step * 100
		}
		f.publish(g)
	}
	f.check("healed")
	for n, e := range f.fakes {
		if faults := e.Faults(); len(faults) > 0 {
			f.w.t.Errorf("%s: %v", n, faults)
		}
		if !f.w.ads.InSync(n) {
			f.w.t.Errorf("%s is not in sync", n)
		}
	}
	if rejections := f.w.ads.Rejections(); len(rejections) > 0 {
		f.w.t.Errorf("%+v", rejections)
	}
}

// version is a new one, sometimes a bad one.
func (f *fleet) version(bad bool) int {
	if bad && f.r.IntN(5) == 0 {
		return f.step*100 + 66
	}
	return f.step * 100
}

func (f *fleet) act() {
	g, n := fmt.Sprint("g", f.r.IntN(2)), fmt.Sprint("n", f.r.IntN(len(f.fakes)))
	name := string(rune('a' + f.r.IntN(5)))
	switch f.r.IntN(8) {
	case 0:
		if f.cuts[n] != nil {
			f.cuts[n]()
			delete(f.cuts, n)
		} else {
			f.cuts[n] = f.w.connect(f.fakes[n])
		}
		return
	case 1:
		f.assign(n)
		return
	case 2:
		delete(f.services[g], name)
	case 3:
		f.odd[g]["odd"+name] = f.version(true)
	case 4:
		delete(f.odd[g], "odd"+name)
	default:
		v, ok := f.services[g][name]
		if !ok {
			v = [3]int{f.step * 100, f.step * 100, f.step * 100}
		}
		v[f.r.IntN(3)] = f.version(false)
		if f.r.IntN(3) == 0 {
			v[1+f.r.IntN(2)] = f.version(true)
		}
		f.services[g][name] = v
	}
	f.publish(g)
}

func (f *fleet) assign(n string) {
	f.group[n], f.own[n] = fmt.Sprint("g", f.r.IntN(2)), f.step
	f.w.ads.Assign(n, f.group[n], delta.NewSet([]*delta.Resource{secret("own", f.own[n])}))
}

func (f *fleet) resources(g string) []*delta.Resource {
	all := secured([]string{"own"}, nil)
	for name, v := range f.services[g] {
		all = append(all, cluster(name, v[0]), endpoints(name, v[1]), route(name, v[2], name), listener(name, 1, name))
	}
	for name, v := range f.odd[g] {
		all = append(all, cluster(name, v), endpoints(name, 1))
	}
	return all
}

func (f *fleet) publish(g string) {
	f.w.ads.Publish(g, int64(f.step), f.r.IntN(4) == 0, delta.NewSet(f.resources(g)))
}

// check compares what every proxy runs with what it should, but for what it refuses.
func (f *fleet) check(when string) {
	time.Sleep(time.Minute) // the bubble's time
	synctest.Wait()
	var refused []string
	for _, n := range slices.Sorted(maps.Keys(f.fakes)) {
		runs := f.fakes[n].Config()
		clusters := maps.Clone(runs[xdstest.ClusterType])
		for _, r := range append(f.resources(f.group[n]), secret("own", f.own[n])) {
			if r.TypeURL == xdstest.EndpointType && clusters[r.Name] == "" && strings.HasPrefix(r.Name, "odd") {
				continue // of a cluster that was refused
			}
			if strings.HasSuffix(r.Version, "66") {
				refused = append(refused, n+" "+r.TypeURL+" "+r.Name+" "+r.Version)
			} else if got := runs[r.TypeURL][r.Name]; got != r.Version {
				f.w.t.Errorf("%s: %s runs %s %s of %q, should %q", when, n, r.TypeURL, r.Name, got, r.Version)
			}
			delete(runs[r.TypeURL], r.Name)
		}
		for typeURL, rest := range runs {
			if len(rest) > 0 {
				f.w.t.Errorf("%s: %s still runs %s %v", when, n, typeURL, rest)
			}
		}
	}
	var told []string
	for _, r := range f.w.ads.Rejections() {
		told = append(told, r.Node+" "+r.TypeURL+" "+r.Resource+" "+r.Version)
	}
	slices.Sort(refused)
	slices.Sort(told)
	if diff := cmp.Diff(refused, told); diff != "" {
		f.w.t.Errorf("%s: refused: %s", when, diff)
	}
	for _, g := range []string{"g0", "g1"} {
		for _, p := range f.w.ads.Progress(g) {
			if p.Settled.IsZero() || p.Behind > 0 || p.Done+p.Rejected != p.Nodes {
				f.w.t.Errorf("%s: %+v", when, p)
			}
		}
	}
}
