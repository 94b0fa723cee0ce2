package mesh

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
)

func factFor(name string) Resource {
	return Resource{Key: Key{Kind: KindMeshService, Mesh: "default", Zone: "east", Name: name}, Labels: map[string]string{"app": name},
		Spec: []byte(`{"ports":[{"port":80}]}`), Status: []byte(`{}`)}
}

func TestFactsDigest(t *testing.T) {
	base := map[Key]Resource{factFor("a").Key: factFor("a"), factFor("b").Key: factFor("b")}
	want := FactsDigest(base)
	if len(want) != 64 || want != FactsDigest(maps.Clone(base)) {
		t.Fatalf("digest %q", want)
	}
	stored := factFor("a")
	stored.Revision, stored.Labels = 7, map[string]string{"app": "a"}
	if FactDigest(stored) != FactDigest(factFor("a")) {
		t.Error("the digest depends on what the store adds")
	}
	for what, change := range map[string]func(*Resource){
		"name": func(r *Resource) { r.Name = "c" }, "zone": func(r *Resource) { r.Zone = "west" }, "mesh": func(r *Resource) { r.Mesh = "m" },
		"kind": func(r *Resource) { r.Kind = KindWorkload }, "label": func(r *Resource) { r.Labels = map[string]string{"app": "x"} },
		"no label": func(r *Resource) { r.Labels = nil }, "shifted label": func(r *Resource) { r.Labels = map[string]string{"ap": "pa"} },
		"spec": func(r *Resource) { r.Spec = []byte(`{}`) }, "status": func(r *Resource) { r.Status = nil },
		"moved": func(r *Resource) { r.Spec, r.Status = r.Status, r.Spec },
	} {
		r := factFor("a")
		change(&r)
		if FactsDigest(map[Key]Resource{r.Key: r, factFor("b").Key: factFor("b")}) == want {
			t.Errorf("%s: same digest", what)
		}
	}
}

// TestFactSet: however a set came to be, its digest is of what is in it.
func TestFactSet(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	set, other := NewFactSet(), NewFactSet()
	want := map[Key]Resource{}
	for range 200 {
		for range 1 + rnd.IntN(100) {
			r := factFor(fmt.Sprint(rnd.IntN(100)))
			r.Labels["v"] = fmt.Sprint(rnd.IntN(3))
			if rnd.IntN(3) == 0 {
				delete(want, r.Key)
				set.Remove(r.Key)
			} else {
				want[r.Key] = r
				set.Put(r.Key, FactDigest(r))
			}
		}
		if set.Digest() != FactsDigest(want) || set.Len() != len(want) {
			t.Fatalf("%d facts: another digest than of the same, put together anew", len(want))
		}
		if rnd.IntN(4) == 0 {
			other, set = set, set.Clone()
			other.Put(Key{Name: "more"}, [32]byte{1})
		}
	}
	if other.Digest() == set.Digest() {
		t.Error("a clone follows what it was made from")
	}
}

func TestNormalizeFact(t *testing.T) {
	r := factFor("a")
	r.Zone, r.Revision, r.Spec = "elsewhere", 9, nil
	r.Labels = map[string]string{LabelZone: "elsewhere", LabelOrigin: "global", "app": "a"}
	once := NormalizeFact("east", r)
	if once.Zone != "east" || once.Labels[LabelZone] != "east" || once.Labels[LabelOrigin] != "zone" || once.Labels["app"] != "a" || once.Revision != 0 || string(once.Spec) != "{}" {
		t.Errorf("%+v", once)
	}
	if r.Labels[LabelZone] != "elsewhere" {
		t.Error("the labels that were passed were changed")
	}
	if FactDigest(NormalizeFact("east", once)) != FactDigest(once) {
		t.Error("normalizing again changes it")
	}
}
