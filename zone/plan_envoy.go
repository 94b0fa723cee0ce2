package zone

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/tombolo-mesh/tombolo/internal/linediff"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
	wire "github.com/tombolo-mesh/tombolo/proto/zonesync"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/xds/delta"
)

// resources are what the proxies of a class share. Endpoints and what a proxy has
// of its own are not among them.
type resources struct{ shared *delta.Set }

// differ compares resources line by line; those that classes share once.
type differ struct {
	known map[[2]*delta.Resource]string
}

func (d *differ) unified(old, next *delta.Resource) string {
	pair := [2]*delta.Resource{old, next}
	text, ok := d.known[pair]
	if !ok {
		text = linediff.Unified(jsonBody(old), jsonBody(next))
		d.known[pair] = text
	}
	return text
}

// compare compares resources by the JSON form of what they say.
func (d *differ) compare(r, next *resources) []wire.ResourceDiff {
	var before, after *delta.Set
	if r != nil {
		before = r.shared
	}
	if next != nil {
		after = next.shared
	}
	keys := before.Diff(after)
	slices.SortFunc(keys, func(a, b delta.Key) int {
		order := resourceTypes()
		return cmp.Or(cmp.Compare(slices.Index(order, a.TypeURL), slices.Index(order, b.TypeURL)), cmp.Compare(a.Name, b.Name))
	})
	var out []wire.ResourceDiff
	for _, k := range keys {
		x := wire.ResourceDiff{TypeURL: k.TypeURL, Name: k.Name, Sign: effect.Changed}
		old, is := before.Get(k.TypeURL, k.Name), after.Get(k.TypeURL, k.Name)
		switch {
		case old == nil:
			x.Sign = effect.Added
		case is == nil:
			x.Sign = effect.Removed
		}
		if len(out) < maxDiffs {
			x.Diff = d.unified(old, is)
		}
		out = append(out, x)
	}
	return out
}

// jsonBody is a resource for people; "" for none.
func jsonBody(r *delta.Resource) string {
	if r == nil {
		return ""
	}
	text, err := xds.JSON(r)
	if err != nil {
		return fmt.Sprintf("%v\n", err)
	}
	return text
}
