package zone

import (
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"sync"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	zonesync "github.com/tombolo-mesh/tombolo/zone/sync"
)

// facts is what the zone tells of itself. It implements zonesync.Facts.
type facts struct {
	changed chan struct{}

	mu sync.Mutex
	// all is what the zone says. Of services with names it is told what the engine
	// has, in told, and the names beside it: those are in no status that the engine
	// reads itself, so that no name makes anything compile again.
	all    map[mesh.Key]mesh.Resource
	told   map[mesh.Key]mesh.Resource
	names  map[string]map[mesh.Key]mesh.ServiceNames
	hidden map[string]map[mesh.Key]bool
	// touched is what Facts has not said in its present form.
	touched map[mesh.Key]struct{}
	// current grows with each change; offered is what was last asked for,
	// confirmed what global holds.
	current, offered, confirmed uint64
	// bell is closed, and made anew, at each confirmation.
	bell chan struct{}
}

var _ zonesync.Facts = (*facts)(nil)

func newFacts() *facts {
	return &facts{changed: make(chan struct{}, 1), all: map[mesh.Key]mesh.Resource{}, told: map[mesh.Key]mesh.Resource{},
		names: map[string]map[mesh.Key]mesh.ServiceNames{}, hidden: map[string]map[mesh.Key]bool{}, touched: map[mesh.Key]struct{}{}, bell: make(chan struct{})}
}

// update takes changes of resources that the zone owns.
func (f *facts) update(changes []mesh.Change, zone string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.current
	for _, c := range changes {
		k := c.Resource.Key
		if k.Zone != zone {
			continue
		}
		old, had := f.all[k]
		if told, is := f.told[k]; is {
			old = told
		}
		switch {
		case c.Deleted && had:
			delete(f.all, k)
			delete(f.told, k)
			f.touched[k] = struct{}{}
		case !c.Deleted && (!had || !sameResource(old, c.Resource)):
			f.put(c.Resource)
		default:
			continue
		}
		f.current = before + 1
	}
	if f.current != before {
		ring(f.changed)
	}
}

// put files a resource as the engine has it, with its names if it has some.
func (f *facts) put(r mesh.Resource) {
	delete(f.told, r.Key)
	names, named := f.names[r.Mesh][r.Key]
	if named && r.Kind == mesh.KindMeshService {
		f.told[r.Key] = r
		r.Status = withNames(r.Status, names)
	}
	f.all[r.Key] = r
	f.touched[r.Key] = struct{}{}
}

// withNames completes the status of a service; what is no status stays as it is.
func withNames(status json.RawMessage, names mesh.ServiceNames) json.RawMessage {
	var s mesh.MeshServiceStatus
	if len(status) > 0 && json.Unmarshal(status, &s) != nil {
		return status
	}
	s.ServiceNames = names
	return mustJSON(&s)
}

// name takes the names of the services of a mesh.
func (f *facts) name(meshName string, names map[mesh.Key]mesh.ServiceNames) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.names[meshName]
	f.names[meshName] = names
	changed := false
	again := func(k mesh.Key) {
		r, has := f.told[k]
		if !has {
			if r, has = f.all[k]; !has {
				return
			}
		}
		before := f.all[k]
		f.put(r)
		changed = changed || !sameResource(before, f.all[k])
	}
	for k, next := range names {
		if was, had := old[k]; !had || !reflect.DeepEqual(was, next) {
			again(k)
		}
	}
	for k := range old {
		if _, still := names[k]; !still {
			again(k)
		}
	}
	if changed {
		f.current++
		ring(f.changed)
	}
}

// hide says which bundles of a mesh the zone keeps to itself.
func (f *facts) hide(meshName string, private map[mesh.Key]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.hidden[meshName]; !maps.Equal(old, private) {
		for k := range old {
			f.touched[k] = struct{}{}
		}
		for k := range private {
			f.touched[k] = struct{}{}
		}
		f.hidden[meshName] = private
		f.current++
		ring(f.changed)
	}
}

func (f *facts) version() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current
}

// Facts implements zonesync.Facts.
func (f *facts) Facts() []mesh.Change {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.offered = f.current
	out := make([]mesh.Change, 0, len(f.touched))
	for k := range f.touched {
		if r, is := f.all[k]; is && !f.hides(k) {
			out = append(out, mesh.Change{Resource: r})
		} else {
			out = append(out, mesh.Change{Resource: mesh.Resource{Key: k}, Deleted: true})
		}
	}
	clear(f.touched)
	return out
}

// whole is everything that the zone says.
func (f *facts) whole() map[mesh.Key]mesh.Resource {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := maps.Clone(f.all)
	maps.DeleteFunc(out, func(k mesh.Key, _ mesh.Resource) bool { return f.hides(k) })
	return out
}

func (f *facts) hides(k mesh.Key) bool { return f.hidden[k.Mesh][k] }

// FactsChanged implements zonesync.Facts.
func (f *facts) FactsChanged() <-chan struct{} { return f.changed }

// FactsConfirmed implements zonesync.Facts: global holds what Facts last returned.
func (f *facts) FactsConfirmed(uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.confirmed = f.offered
	close(f.bell)
	f.bell = make(chan struct{})
}

// wait returns when global holds a version of the facts, or after a bound.
func (f *facts) wait(ctx context.Context, version uint64, bound time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for {
		f.mu.Lock()
		bell, ok := f.bell, f.confirmed >= version
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-bell:
		case <-ctx.Done():
			return
		}
	}
}

// ring wakes a coalescing receiver.
func ring(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
