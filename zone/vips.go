package zone

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/zone/disk"
)

// vipGrace is how long the virtual address of a service that is gone is kept for
// its return: longer than names are cached, and than most outages last.
const vipGrace = 24 * time.Hour

// maxReleased bounds the addresses that are kept for services that are gone: who
// makes and deletes services without end must not fill the zone's state. Those that
// are gone for longest are given up first.
const maxReleased = 10_000

// vipCounter is how the virtual address of a service is kept among the counters:
// "vip/<key>" is the IPv4 address, and above it, in seconds since 1970, when the
// service was gone; 0 while it lives.
const vipCounter = "vip/"

// VIPRanges are where the virtual addresses of services come from. Proxies
// with transparent proxying catch them; no packet for one ever leaves a host.
type VIPRanges struct {
	// Service is the IPv4 range of MeshServices, default 241.0.0.0/8.
	Service netip.Prefix
	// MultiZone is the IPv4 range of MeshMultiZoneServices, default 243.0.0.0/8.
	MultiZone netip.Prefix
	// IPv6 is the range of both, default fd74:6f6d:626f:6c6f::/64; the last 32 bits
	// of an address are those of its IPv4 twin.
	IPv6 netip.Prefix
}

// DefaultVIPRanges are class E, which nobody routes, and a unique local range.
func DefaultVIPRanges() VIPRanges {
	return VIPRanges{Service: netip.MustParsePrefix("241.0.0.0/8"), MultiZone: netip.MustParsePrefix("243.0.0.0/8"),
		IPv6: netip.MustParsePrefix("fd74:6f6d:626f:6c6f::/64")}
}

// withDefaults completes and checks ranges.
func (v VIPRanges) withDefaults() (VIPRanges, error) {
	d := DefaultVIPRanges()
	for p, def := range map[*netip.Prefix]netip.Prefix{&v.Service: d.Service, &v.MultiZone: d.MultiZone, &v.IPv6: d.IPv6} {
		if !p.IsValid() {
			*p = def
		}
		*p = p.Masked()
	}
	for name, p := range map[string]netip.Prefix{"services": v.Service, "multi-zone services": v.MultiZone} {
		if !p.Addr().Is4() || p.Bits() > 28 || p.Bits() < 4 {
			return v, fmt.Errorf("range of virtual addresses of %s: must be IPv4 with a length of 4 to 28, not %s", name, p)
		}
	}
	switch {
	case v.Service.Overlaps(v.MultiZone):
		return v, fmt.Errorf("ranges of virtual addresses %s and %s must not overlap", v.Service, v.MultiZone)
	case !v.IPv6.Addr().Is6() || v.IPv6.Addr().Is4In6() || v.IPv6.Bits() > 96:
		return v, fmt.Errorf("range of IPv6 virtual addresses: must be IPv6 with a length of at most 96, not %s", v.IPv6)
	}
	return v, nil
}

// of is the IPv4 range of a kind.
func (v *VIPRanges) of(kind mesh.KindName) netip.Prefix {
	if kind == mesh.KindMeshMultiZoneService {
		return v.MultiZone
	}
	return v.Service
}

// pair is a virtual address in both families.
func (v *VIPRanges) pair(address uint32) []string {
	var four [4]byte
	binary.BigEndian.PutUint32(four[:], address)
	six := v.IPv6.Addr().As16()
	copy(six[12:], four[:])
	return []string{netip.AddrFrom4(four).String(), netip.AddrFrom16(six).String()}
}

// vip is what a service has.
type vip struct {
	address uint32
	// released is when the service was gone, in seconds; 0 while it lives.
	released uint32
}

func (v vip) counter() uint64 { return uint64(v.released)<<32 | uint64(v.address) }

// vips are the virtual addresses of all services that live, or did until a while ago.
type vips struct {
	ranges VIPRanges
	of     map[mesh.Key]vip
	owner  map[uint32]mesh.Key
	// unsaved counters, to be written with the next commit.
	unsaved map[string]uint64
}

func newVIPs(ranges VIPRanges) *vips {
	return &vips{ranges: ranges, of: map[mesh.Key]vip{}, owner: map[uint32]mesh.Key{}, unsaved: map[string]uint64{}}
}

// adopt takes what was decided before, by this instance of the zone or by another
// one; meshes where something differs come back. An address outside of its range
// is not adopted: the range was changed.
func (v *vips) adopt(counters map[string]uint64) map[string]bool {
	changed := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(counters)) {
		key, ok := vipKey(name)
		if !ok {
			continue
		}
		next := vip{address: uint32(counters[name]), released: uint32(counters[name] >> 32)}
		old, had := v.of[key]
		if had && old == next {
			continue
		}
		changed[key.Mesh] = true
		if had {
			v.forget(key)
		}
		if next.address == 0 {
			continue
		}
		if !v.fits(key, next.address) {
			v.unsaved[name] = 0
			continue
		}
		if other, taken := v.owner[next.address]; taken {
			v.forget(other)
			changed[other.Mesh] = true
		}
		v.set(key, next)
	}
	return changed
}

func vipKey(name string) (mesh.Key, bool) {
	rest, ok := strings.CutPrefix(name, vipCounter)
	parts := strings.SplitN(rest, "/", 4)
	if !ok || len(parts) != 4 {
		return mesh.Key{}, false
	}
	return mesh.Key{Kind: mesh.KindName(parts[0]), Mesh: parts[1], Zone: parts[2], Name: parts[3]}, true
}

// fits: the first and the last address of a range are nobody's.
func (v *vips) fits(key mesh.Key, address uint32) bool {
	first, size := bounds(v.ranges.of(key.Kind))
	return address > first && address < first+(size-1)
}

// bounds are the first address of an IPv4 range, and how many it has.
func bounds(p netip.Prefix) (first, size uint32) {
	four := p.Addr().As4()
	return binary.BigEndian.Uint32(four[:]), 1 << (32 - p.Bits())
}

func (v *vips) set(key mesh.Key, next vip) { v.of[key], v.owner[next.address] = next, key }

func (v *vips) forget(key mesh.Key) {
	delete(v.owner, v.of[key].address)
	delete(v.of, key)
}

func (v *vips) save(key mesh.Key) { v.unsaved[vipCounter+key.String()] = v.of[key].counter() }

// errNoVIP is a range without an address left.
var errNoVIP = errors.New("no virtual address is left in the range")

// hold returns the address of a service that lives. A new one is where the digest
// of the key points to, or the next free one behind it, so that mostly all zones
// agree on it.
func (v *vips) hold(key mesh.Key) (uint32, error) {
	if had, ok := v.of[key]; ok {
		if had.released != 0 {
			v.set(key, vip{address: had.address})
			v.save(key)
		}
		return had.address, nil
	}
	first, size := bounds(v.ranges.of(key.Kind))
	usable := size - 2
	sum := sha256.Sum256([]byte(key.String()))
	start := uint32(binary.BigEndian.Uint64(sum[:8]) % uint64(usable))
	for i := range usable {
		address := first + 1 + uint32((uint64(start)+uint64(i))%uint64(usable))
		if _, taken := v.owner[address]; taken {
			continue
		}
		v.set(key, vip{address: address})
		v.save(key)
		return address, nil
	}
	// Full: who is gone for longest goes for good.
	var oldest mesh.Key
	for k, x := range v.of {
		if x.released != 0 && v.fits(key, x.address) && (oldest.Kind == "" ||
			cmp.Or(cmp.Compare(x.released, v.of[oldest].released), compareKeys(k, oldest)) < 0) {
			oldest = k
		}
	}
	if oldest.Kind == "" {
		return 0, fmt.Errorf("%w %s", errNoVIP, v.ranges.of(key.Kind))
	}
	address := v.of[oldest].address
	v.forget(oldest)
	v.save(oldest)
	v.set(key, vip{address: address})
	v.save(key)
	return address, nil
}

// release starts the grace of those of a mesh who do not live, and ends it for
// those whose time is over.
func (v *vips) release(meshName string, lives map[mesh.Key]bool, now time.Time) {
	for k, x := range v.of {
		switch {
		case k.Mesh != meshName || lives[k]:
		case x.released == 0:
			v.set(k, vip{address: x.address, released: uint32(now.Unix())})
			v.save(k)
		case now.Sub(time.Unix(int64(x.released), 0)) >= vipGrace:
			v.forget(k)
			v.save(k)
		}
	}
	v.giveUp()
}

// giveUp forgets the oldest of those who are gone, of all meshes, beyond maxReleased.
func (v *vips) giveUp() {
	var gone []mesh.Key
	for k, x := range v.of {
		if x.released != 0 {
			gone = append(gone, k)
		}
	}
	if len(gone) <= maxReleased {
		return
	}
	slices.SortFunc(gone, func(a, b mesh.Key) int {
		return cmp.Or(cmp.Compare(v.of[a].released, v.of[b].released), compareKeys(a, b))
	})
	for _, k := range gone[:len(gone)-maxReleased] {
		v.forget(k)
		v.save(k)
	}
}

// deriveVIPs decides where the services of a mesh are called: where the platform
// says, or else at virtual addresses.
func (e *engine) deriveVIPs(b *batch, r ir.Reader, meshName string) []mesh.Resource {
	lives, called := map[mesh.Key]bool{}, map[mesh.Key]bool{}
	for _, kind := range []mesh.KindName{mesh.KindMeshService, mesh.KindMeshMultiZoneService} {
		for _, o := range r.List(ir.Query{Kind: kind, Mesh: meshName, Index: ir.ByMesh}) {
			if given := e.given[o.Key]; len(given) > 0 {
				b.address(o.Key, given)
				called[o.Key] = true
				continue
			}
			address, err := e.vips.hold(o.Key)
			if err != nil {
				e.log.Error("service has no virtual address", "service", o.Key.String(), "error", err)
				continue
			}
			lives[o.Key], called[o.Key] = true, true
			b.address(o.Key, e.vips.ranges.pair(address))
		}
	}
	for k := range e.called[meshName] {
		if !called[k] {
			b.address(k, nil)
		}
	}
	e.called[meshName] = called
	e.vips.release(meshName, lives, b.now)
	return nil
}

// address notes where a service is called, for the world after the unit.
func (b *batch) address(key mesh.Key, addresses []string) {
	if b.addresses == nil {
		b.addresses = map[mesh.Key][]string{}
	}
	b.addresses[key] = addresses
}

// takeAddresses makes new virtual addresses durable and returns the addresses to
// set. When they cannot be saved they count all the same: in all likelihood the
// same ones come out again, and they are saved with what is saved next.
func (e *engine) takeAddresses(b *batch) map[mesh.Key][]string {
	if len(e.vips.unsaved) > 0 {
		counters := maps.Clone(e.vips.unsaved)
		if err := e.cfg.disk.Commit(disk.Update{Counters: counters}); err != nil {
			e.metrics.diskErrors.Inc()
			e.log.Error("virtual addresses not saved", "error", err)
		} else {
			maps.Copy(e.counters, counters)
			clear(e.vips.unsaved)
		}
	}
	out := b.addresses
	b.addresses = nil
	return out
}

// giveAddresses takes what the platform says about where services are called; an
// empty list leaves a service to its virtual address.
func (e *engine) giveAddresses(addresses map[mesh.Key][]string) {
	for _, k := range sortedKeys(addresses) {
		if slices.Equal(e.given[k], addresses[k]) {
			continue
		}
		if len(addresses[k]) == 0 {
			delete(e.given, k)
		} else {
			e.given[k] = slices.Clone(addresses[k])
		}
		e.discover(k)
		e.dirty[unitOf("vips", k.Mesh)] = true
	}
}

// adoptVIPs takes virtual addresses that another instance of the zone decided.
func (e *engine) adoptVIPs(counters map[string]uint64) {
	for name := range e.vips.adopt(counters) {
		if u := unitOf("vips", name); e.units[u] != nil {
			e.dirty[u] = true
		}
	}
}
