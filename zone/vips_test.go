package zone

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

func (r *rig) addresses(k mesh.Key) (out []string) {
	r.e.world.View(func(v ir.Reader) { out = slices.Clone(v.Addresses(k)) })
	return out
}

func remoteService(t testing.TB, meshName, name string) mesh.Resource {
	return resource(t, mesh.KindMeshService, meshName, "west", name, `{"ports":[{"port":80}]}`)
}

func multiZone(t testing.TB, meshName, name string) mesh.Resource {
	return resource(t, mesh.KindMeshMultiZoneService, meshName, "", name,
		`{"selector":{"meshService":{"matchLabels":{"tombolo.io/display-name":"`+name+`"}}},"ports":[{"port":80}]}`)
}

// Over any history of services that come and go, of addresses that the platform
// gives and takes, and of restarts: who lives has an address of its own, in its
// range and in both families, that never moves; who returns gets it back.
func TestVIPsNeverMove(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			r := newRig(t, "east")
			// A small range, so that probing matters.
			r.vips = VIPRanges{Service: netip.MustParsePrefix("241.7.0.0/26"), MultiZone: netip.MustParsePrefix("243.0.0.0/8"), IPv6: DefaultVIPRanges().IPv6}
			r.restart()
			rnd := rand.New(rand.NewPCG(seed, 3))
			lives, had, given := map[mesh.Key]mesh.Resource{}, map[mesh.Key][]string{}, map[mesh.Key][]string{}
			for range 150 {
				var changes []mesh.Change
				ops := []func(*batch){}
				for range 1 + rnd.IntN(4) {
					name, m := fmt.Sprint("s", rnd.IntN(25)), []string{"default", "other"}[rnd.IntN(2)]
					res := remoteService(t, m, name)
					if rnd.IntN(4) == 0 {
						res = multiZone(t, m, name)
					}
					switch rnd.IntN(5) {
					case 0, 1, 2:
						lives[res.Key] = res
						changes = append(changes, put(res))
					case 3:
						delete(lives, res.Key)
						changes = append(changes, del(res.Key))
					case 4:
						var list []string
						if rnd.IntN(2) == 0 {
							list = []string{fmt.Sprintf("10.0.0.%d", rnd.IntN(200))}
						}
						given[res.Key] = list
						ops = append(ops, func(*batch) { r.e.giveAddresses(map[mesh.Key][]string{res.Key: list}) })
					}
				}
				if err := r.turn(append(ops, r.push(changes...))...); err != nil {
					t.Fatal(err)
				}
				if rnd.IntN(10) == 0 {
					r.restart()
					again := maps.Clone(given)
					if err := r.turn(func(*batch) { r.e.giveAddresses(again) }); err != nil {
						t.Fatal(err)
					}
				}
				owner := map[string]mesh.Key{}
				for k := range lives {
					got := r.addresses(k)
					if len(given[k]) > 0 {
						if !slices.Equal(got, given[k]) {
							t.Fatalf("%s is called at %v, the platform said %v", k, got, given[k])
						}
						continue
					}
					if len(got) != 2 || !r.vips.of(k.Kind).Contains(netip.MustParseAddr(got[0])) || !r.vips.IPv6.Contains(netip.MustParseAddr(got[1])) {
						t.Fatalf("%s has %v", k, got)
					}
					for _, a := range got {
						if other, taken := owner[a]; taken {
							t.Fatalf("%s and %s both have %s", k, other, a)
						}
						owner[a] = k
					}
					if before := had[k]; before != nil && !slices.Equal(before, got) {
						t.Fatalf("%s moved from %v to %v", k, before, got)
					}
					had[k] = got
				}
				for k := range had {
					if _, ok := lives[k]; !ok && len(r.addresses(k)) > 0 {
						t.Fatalf("%s is gone and called at %v", k, r.addresses(k))
					}
				}
			}
		})
	}
}

func TestVIPsAreTheSameInEveryZone(t *testing.T) {
	k := remoteService(t, "default", "backend")
	var all [][]string
	for _, zone := range []string{"east", "north"} {
		r := newRig(t, zone)
		if err := r.turn(r.push(put(k))); err != nil {
			t.Fatal(err)
		}
		all = append(all, r.addresses(k.Key))
	}
	if diff := cmp.Diff(all[0], all[1]); diff != "" || len(all[0]) != 2 {
		t.Error(all[0], diff)
	}
}

func TestVIPGrace(t *testing.T) {
	v := newVIPs(VIPRanges{Service: netip.MustParsePrefix("241.0.0.0/28"), MultiZone: netip.MustParsePrefix("243.0.0.0/8"), IPv6: DefaultVIPRanges().IPv6})
	now := time.Unix(1_800_000_000, 0)
	keys := make([]mesh.Key, 15)
	for i := range keys {
		keys[i] = mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "west", Name: fmt.Sprint("s", i)}
	}
	lives := map[mesh.Key]bool{}
	for _, k := range keys[:14] {
		if _, err := v.hold(k); err != nil {
			t.Fatal(err)
		}
		lives[k] = true
	}
	if _, err := v.hold(keys[14]); err == nil {
		t.Error("15 addresses out of 14")
	}
	// Of those who are gone the one for longest makes room; the other returns.
	first, second := v.of[keys[3]].address, v.of[keys[4]].address
	delete(lives, keys[3])
	v.release("default", lives, now)
	delete(lives, keys[4])
	v.release("default", lives, now.Add(time.Hour))
	if got, err := v.hold(keys[14]); err != nil || got != first {
		t.Errorf("got %x, %v; want %x", got, err, first)
	}
	if got, err := v.hold(keys[4]); err != nil || got != second || v.of[keys[4]].released != 0 {
		t.Errorf("got %x, %v; want %x", got, err, second)
	}
	// After its grace an address is free again, on disk too.
	v.release("default", lives, now)
	lives[keys[14]], lives[keys[4]] = true, true
	delete(lives, keys[5])
	v.release("default", lives, now)
	v.release("default", lives, now.Add(vipGrace))
	if _, ok := v.of[keys[5]]; ok || v.unsaved[vipCounter+keys[5].String()] != 0 {
		t.Error("the grace does not end")
	}
	// Another instance of the zone follows what was decided, also against itself.
	other := newVIPs(v.ranges)
	if _, err := other.hold(keys[7]); err != nil {
		t.Fatal(err)
	}
	decided := map[string]uint64{vipCounter + keys[9].String(): other.of[keys[7]].counter()}
	if changed := other.adopt(decided); !changed["default"] || other.owner[uint32(decided[vipCounter+keys[9].String()])] != keys[9] || len(other.of) != 1 {
		t.Error(changed, other.of)
	}
}

// Addresses of those who are gone are bounded: the oldest are given up.
func TestVIPsOfMany(t *testing.T) {
	v := newVIPs(DefaultVIPRanges())
	now := time.Now()
	for n := range maxReleased + 100 {
		if _, err := v.hold(mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "west", Name: fmt.Sprint("s", n)}); err != nil {
			t.Fatal(err)
		}
		if n == 99 {
			v.release("default", nil, now)
		}
	}
	lives := mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "west", Name: "lives"}
	if _, err := v.hold(lives); err != nil {
		t.Fatal(err)
	}
	v.release("default", map[mesh.Key]bool{lives: true}, now.Add(time.Minute))
	if _, ok := v.of[lives]; !ok || len(v.of) != maxReleased+1 || len(v.owner) != len(v.of) {
		t.Errorf("%d are kept", len(v.of))
	}
	for n := range 100 {
		k := mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "west", Name: fmt.Sprint("s", n)}
		if _, ok := v.of[k]; ok || v.unsaved[vipCounter+k.String()] != 0 {
			t.Fatal("not the oldest are given up")
		}
	}
}

func TestVIPRangesAreChecked(t *testing.T) {
	for _, bad := range []VIPRanges{
		{Service: netip.MustParsePrefix("fd00::/64")},
		{Service: netip.MustParsePrefix("241.0.0.0/30")},
		{Service: netip.MustParsePrefix("243.1.0.0/16")},
		{IPv6: netip.MustParsePrefix("fd00::/100")},
		{IPv6: netip.MustParsePrefix("10.0.0.0/8")},
	} {
		if _, err := bad.withDefaults(); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	// Who changes a range gets addresses out of the new one.
	r := newRig(t, "east")
	k := remoteService(t, "default", "backend")
	if err := r.turn(r.push(put(k))); err != nil {
		t.Fatal(err)
	}
	r.vips.Service = netip.MustParsePrefix("240.9.0.0/16")
	r.restart()
	if got := r.addresses(k.Key); len(got) != 2 || !r.vips.Service.Contains(netip.MustParseAddr(got[0])) {
		t.Error(got)
	}
}
