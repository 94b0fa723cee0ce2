package mesh

import (
	"maps"
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
