package world_test

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/zone/world"
)

func service(name, zone, spec string, labels ...string) mesh.Resource {
	r := mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: zone, Name: name}, Labels: map[string]string{}, Spec: []byte(spec)}
	for i := 0; i < len(labels); i += 2 {
		r.Labels[labels[i]] = labels[i+1]
	}
	return r
}

func put(r ...mesh.Resource) world.Batch {
	var b world.Batch
	for _, x := range r {
		b.Changes = append(b.Changes, mesh.Change{Resource: x})
	}
	return b
}

func del(k mesh.Key) world.Batch {
	return world.Batch{Changes: []mesh.Change{{Deleted: true, Resource: mesh.Resource{Key: k}}}}
}

func query(index ir.Index, value string) ir.Query {
	return ir.Query{Kind: mesh.KindMeshService, Mesh: "default", Index: index, Value: value}
}

func TestDependencies(t *testing.T) {
	web := service("web", "east", `{"ports":[{"port":80}]}`)
	named := service("other", "west", `{}`, mesh.LabelDisplayName, "web")
	withStatus := web
	withStatus.Status = []byte(`{"ports":[{"port":80,"healthy":2}]}`)
	reordered := web
	reordered.Spec, reordered.Revision = []byte(`{ "ports" : [ {"port":80} ] }`), 9
	older := web
	older.Created = web.Created.AddDate(0, 0, 1)

	unavailable := web
	unavailable.Spec = []byte(`{"ports":[{"port":80}],"state":"Unavailable"}`)

	selectOf := func(name string) func(ir.Reader) {
		return func(r ir.Reader) {
			ir.Select(r, query(ir.ByMesh, ""), func(o *ir.Object) bool { return o.DisplayName() == name })
		}
	}
	get := func(r ir.Reader) { r.Get(web.Key) }
	list := func(q ir.Query) func(ir.Reader) { return func(r ir.Reader) { r.List(q) } }
	for name, c := range map[string]struct {
		before []mesh.Resource
		read   func(ir.Reader)
		specs  bool
		batch  world.Batch
		dirty  bool
	}{
		"a get that found nothing":                {read: get, batch: put(web), dirty: true},
		"a get of what goes":                      {before: []mesh.Resource{web}, read: get, batch: del(web.Key), dirty: true},
		"a get of something else":                 {read: get, batch: put(named)},
		"an empty index value":                    {read: list(query(ir.ByZone, "east")), batch: put(web), dirty: true},
		"another index value":                     {read: list(query(ir.ByZone, "south")), batch: put(web)},
		"the display name, if absent the name":    {read: list(query(ir.ByDisplayName, "web")), batch: put(web), dirty: true},
		"the display name as a label":             {read: list(query(ir.ByDisplayName, "web")), batch: put(named), dirty: true},
		"the name under a display name":           {read: list(query(ir.ByDisplayName, "other")), batch: put(named)},
		"the index value that an object leaves":   {before: []mesh.Resource{service("web", "east", `{}`, mesh.LabelDisplayName, "x")}, read: list(query(ir.ByDisplayName, "x")), batch: put(web), dirty: true},
		"deleting what is absent":                 {read: get, batch: del(web.Key)},
		"the same again, written differently":     {before: []mesh.Resource{web}, read: get, batch: put(reordered)},
		"another age":                             {before: []mesh.Resource{web}, read: get, batch: put(older), dirty: true},
		"a status":                                {before: []mesh.Resource{web}, read: list(query(ir.ByMesh, "")), batch: put(withStatus), dirty: true},
		"a status, to a reader of specs":          {before: []mesh.Resource{web}, read: list(query(ir.ByMesh, "")), specs: true, batch: put(withStatus)},
		"an object, to a reader of specs":         {read: list(query(ir.ByMesh, "")), specs: true, batch: put(withStatus), dirty: true},
		"what is selected":                        {read: selectOf("web"), batch: put(web), dirty: true},
		"what is not selected":                    {read: selectOf("api"), batch: put(web)},
		"what is not selected any more":           {before: []mesh.Resource{web}, read: selectOf("web"), batch: put(service("web", "east", `{}`, mesh.LabelDisplayName, "x")), dirty: true},
		"what is selected from now on":            {before: []mesh.Resource{service("web", "east", `{}`, mesh.LabelDisplayName, "x")}, read: selectOf("web"), batch: put(web), dirty: true},
		"what was selected and goes":              {before: []mesh.Resource{web}, read: selectOf("web"), batch: del(web.Key), dirty: true},
		"a status of what is selected":            {before: []mesh.Resource{web}, read: selectOf("web"), batch: put(withStatus), dirty: true},
		"the same, to a reader of specs":          {before: []mesh.Resource{web}, read: selectOf("web"), specs: true, batch: put(withStatus)},
		"the state of a service":                  {before: []mesh.Resource{web}, read: get, batch: put(unavailable), dirty: true},
		"the same, to one of specs":               {before: []mesh.Resource{web}, read: get, specs: true, batch: put(unavailable)},
		"a port beside it, to one of specs":       {before: []mesh.Resource{unavailable}, read: get, specs: true, batch: put(service("web", "east", `{"state":"Available"}`)), dirty: true},
		"a counter":                               {read: func(r ir.Reader) { r.Counter("a") }, batch: world.Batch{Counters: map[string]uint64{"a": 1}}, dirty: true},
		"a counter that stays":                    {read: func(r ir.Reader) { r.Counter("a") }, batch: world.Batch{Counters: map[string]uint64{"a": 0}}},
		"put and deleted in one batch, as it was": {read: get, batch: world.Batch{Changes: []mesh.Change{{Resource: named}, {Deleted: true, Resource: named}}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := world.New("east")
			w.Apply(put(c.before...))
			if c.specs {
				w.ReadSpecs("u", c.read)
			} else {
				w.Read("u", c.read)
			}
			if got := len(w.Apply(c.batch).Dirty) > 0; got != c.dirty {
				t.Errorf("dirty %v, want %v", got, c.dirty)
			}
		})
	}
}

func TestReadsAreReplacedAndForgotten(t *testing.T) {
	w := world.New("east")
	web := service("web", "east", `{}`)
	api := service("api", "east", `{}`)
	w.Read("u", func(r ir.Reader) { r.Get(web.Key) })
	w.Read("u", func(r ir.Reader) { r.Get(api.Key) })
	w.Read("v", func(r ir.Reader) { r.Get(api.Key) })
	w.View(func(r ir.Reader) { r.Get(web.Key) })
	if d := w.Apply(put(web)).Dirty; len(d) > 0 {
		t.Error("a former read counts:", d)
	}
	w.Forget("u")
	if d := w.Apply(put(api)).Dirty; !slices.Equal(d, []world.Unit{"v"}) {
		t.Error(d)
	}
	w.Forget("v")
	if _, units, edges := w.Size(); units+edges != 0 {
		t.Error("leaves", units, edges)
	}
}

func TestUndecodableKeepsTheLastGood(t *testing.T) {
	w := world.New("east")
	good := service("web", "west", `{"ports":[{"port":80}],"newer":{"field":1}}`)
	bad := service("web", "west", `{"ports":"80"}`)
	w.Apply(put(good))
	w.Read("u", func(r ir.Reader) { r.Get(good.Key) })
	res := w.Apply(put(bad))
	if len(res.Dirty) > 0 || !slices.Equal(res.Broken, []mesh.Key{good.Key}) || len(w.Problems()) != 1 {
		t.Errorf("%+v, %v", res, w.Problems())
	}
	w.View(func(r ir.Reader) {
		o, ok := r.Get(good.Key)
		if !ok || len(o.Decoded.(*mesh.MeshService).Ports) != 1 {
			t.Error("the last good version is gone")
		}
	})
	w.Apply(put(good))
	if len(w.Problems()) > 0 {
		t.Error("the problem stays:", w.Problems())
	}
	w.Apply(put(mesh.Resource{Key: mesh.Key{Kind: "MeshFuture", Mesh: "default", Name: "x"}, Spec: []byte(`{}`)}))
	if p := w.Problems(); len(p) != 1 {
		t.Error("an unknown kind is no problem:", p)
	}
}

func TestListsAreSortedAndComplete(t *testing.T) {
	w := world.New("east")
	want := map[mesh.Key]bool{}
	for i := range 200 {
		r := service(fmt.Sprintf("s%03d", i*37%200), []string{"east", "west"}[i%2], `{}`)
		w.Apply(put(r))
		want[r.Key] = true
		if i%3 == 0 {
			w.Apply(del(r.Key))
			delete(want, r.Key)
		}
	}
	var text, sorted []string
	w.View(func(r ir.Reader) {
		for _, o := range r.List(query(ir.ByMesh, "")) {
			text = append(text, o.Key.String())
		}
		if got := len(r.List(query(ir.ByZone, "east"))) + len(r.List(query(ir.ByZone, "west"))); got != len(want) {
			t.Error("zones hold", got)
		}
	})
	for k := range want {
		sorted = append(sorted, k.String())
	}
	slices.Sort(sorted)
	if d := cmp.Diff(sorted, text); d != "" {
		t.Error(d)
	}
}

// Compiles that overlap with a writer must end with the newest answer: a change
// after a read makes its unit dirty, whenever it comes.
func TestReadersBesideAWriter(t *testing.T) {
	w := world.New("east")
	const units, rounds = 8, 200
	dirty := make([]chan struct{}, units)
	answers := make([]string, units)
	var wg sync.WaitGroup
	read := func(i int) {
		w.Read(world.Unit(fmt.Sprint(i)), func(r ir.Reader) {
			answers[i] = ""
			if o, ok := r.Get(mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "east", Name: fmt.Sprintf("s%d", i)}); ok {
				answers[i] = string(o.Spec)
			}
		})
	}
	for i := range units {
		dirty[i] = make(chan struct{}, 1)
		read(i)
		wg.Go(func() {
			for range dirty[i] {
				read(i)
			}
		})
	}
	for n := range rounds {
		for i := range units {
			res := w.Apply(put(service(fmt.Sprintf("s%d", i), "east", fmt.Sprintf(`{"ports":[{"port":%d}]}`, n+1))))
			for _, u := range res.Dirty {
				k, err := strconv.Atoi(string(u))
				if err != nil {
					t.Fatal(err)
				}
				select {
				case dirty[k] <- struct{}{}:
				default: // one look later sees this, too
				}
			}
		}
	}
	for _, c := range dirty {
		close(c)
	}
	wg.Wait()
	for i, a := range answers {
		if a != fmt.Sprintf(`{"ports":[{"port":%d}]}`, rounds) {
			t.Errorf("unit %d ended with %s", i, a)
		}
	}
}
