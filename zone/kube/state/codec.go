package state

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/zone/disk"
)

const (
	// format of the Secrets. A newer program reads older formats, not the other way round.
	format = 1
	// shards of the copy of global's resources; fixed, since names depend on it.
	shards = 16
	// maxPlain bounds what a Secret may hold once it is unpacked.
	maxPlain = 64 << 20
	// maxSecret is what an API server takes in one Secret, less some room.
	maxSecret = 1000 << 10
)

// growing counters are never taken back: a follower may have counted further.
const growing = ir.TightenPrefix

// errTooLarge is a state that does not fit its Secrets.
var errTooLarge = errors.New("the state is too large for its Secret")

// shared is the content of the Secret of what all instances share.
type shared struct {
	Format int    `json:"format"`
	Zone   string `json:"zone"`
	seal
	SessionKey  []byte            `json:"sessionKey,omitempty"`
	Authorities []authority       `json:"authorities,omitempty"`
	Counters    map[string]uint64 `json:"counters,omitempty"`
	Permissions map[string][]byte `json:"permissions,omitempty"`
}

// lean is what must be written, if nothing else can: keys, permissions and the
// counters that are never taken back. Other counters, such as virtual addresses, can
// be found again, if not always the same.
func (s shared) lean() shared {
	s.Counters = maps.Clone(s.Counters)
	maps.DeleteFunc(s.Counters, func(name string, _ uint64) bool { return !strings.HasPrefix(name, growing) })
	return s
}

// packShared packs what is shared, or what of it fits. Nothing that workloads can
// make many of keeps a key from being written.
func packShared(s shared) (data []byte, all bool, err error) {
	if data, err = pack(s); !errors.Is(err, errTooLarge) {
		return data, true, err
	}
	data, err = pack(s.lean())
	return data, false, err
}

// seal says which content of the shards together is the copy of what global had
// at a position. Secrets are written one by one, by a leader that may have been
// behind the former one: only shards that are the very ones sealed are at that
// position. Others, and those that a program without seals wrote, are at none.
type seal struct {
	Revision int64    `json:"revision"`
	Digest   string   `json:"digest,omitempty"`
	Shards   [][]byte `json:"shards,omitempty"` // SHA-256 of each, as it lies in its Secret; empty where there is none
}

func (s *seal) holds(written map[string][sha256.Size]byte) bool {
	if len(s.Shards) != shards {
		return false
	}
	for n, want := range s.Shards {
		if got, there := written[shardName(n)]; there != (len(want) > 0) || there && !bytes.Equal(want, got[:]) {
			return false
		}
	}
	return true
}

func sealOf(at disk.Position, written map[string][sha256.Size]byte) seal {
	s := seal{Revision: int64(at.Revision), Digest: at.Digest, Shards: make([][]byte, shards)}
	for n := range s.Shards {
		if sum, there := written[shardName(n)]; there {
			s.Shards[n] = sum[:]
		}
	}
	return s
}

type authority struct {
	Mesh        string `json:"mesh"`
	TrustDomain string `json:"trustDomain"`
	Slots       []byte `json:"slots"`
}

// shard is the content of the Secret of some resources, each as disk writes them.
type shard struct {
	Resources [][]byte `json:"resources,omitempty"`
	Kept      [][]byte `json:"kept,omitempty"`
}

func pack(v any) ([]byte, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if out.Len() > maxSecret {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errTooLarge, out.Len(), maxSecret)
	}
	return out.Bytes(), nil
}

func unpack(data []byte, v any) error {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxPlain+1))
	if err != nil {
		return err
	}
	if len(plain) > maxPlain {
		return errTooLarge
	}
	return json.Unmarshal(plain, v)
}

// shardOf a resource never changes.
func shardOf(k mesh.Key) int {
	h := fnv.New32a()
	_, _ = io.WriteString(h, strings.Join([]string{string(k.Kind), k.Mesh, k.Zone, k.Name}, "\x00")) // never fails
	return int(h.Sum32() % shards)
}

// tables are the state, by key.
type tables struct {
	position    disk.Position
	resources   map[mesh.Key]mesh.Resource
	kept        map[mesh.Key]mesh.Resource
	authorities map[[2]string][]byte
	counters    map[string]uint64
	permissions map[string][]byte
	quarantine  map[string][]byte
	session     []byte
}

func newTables() tables {
	return tables{resources: map[mesh.Key]mesh.Resource{}, kept: map[mesh.Key]mesh.Resource{}, authorities: map[[2]string][]byte{},
		counters: map[string]uint64{}, permissions: map[string][]byte{}, quarantine: map[string][]byte{}}
}

// apply takes an update and says which shards and whether the shared part changed.
func (t *tables) apply(u *disk.Update) (dirty [shards]bool, meta bool) {
	if u.ReplaceResources {
		clear(t.resources)
		clear(t.kept)
		for i := range dirty {
			dirty[i] = true
		}
	}
	put := func(table map[mesh.Key]mesh.Resource, puts []mesh.Resource, dels []mesh.Key) {
		for _, k := range dels {
			delete(table, k)
			dirty[shardOf(k)] = true
		}
		for _, r := range puts {
			table[r.Key] = r
			dirty[shardOf(r.Key)] = true
		}
	}
	put(t.resources, u.PutResources, u.DeleteResources)
	put(t.kept, u.PutKept, u.DeleteKept)
	for _, a := range u.PutAuthorities {
		t.authorities[[2]string{a.Mesh, a.TrustDomain}] = a.Slots
	}
	for name, n := range u.Counters {
		if n == 0 {
			delete(t.counters, name)
		} else {
			t.counters[name] = n
		}
	}
	for name, text := range u.Permissions {
		if text == nil {
			delete(t.permissions, name)
		} else {
			t.permissions[name] = text
		}
	}
	for id, text := range u.Quarantine {
		if text == nil {
			delete(t.quarantine, id)
		} else {
			t.quarantine[id] = text
		}
	}
	if len(u.SessionKey) > 0 {
		t.session = u.SessionKey
	}
	if u.Position != nil {
		t.position = *u.Position
	}
	return dirty, u.Position != nil || len(u.PutAuthorities)+len(u.Counters)+len(u.Permissions)+len(u.SessionKey) > 0
}

func (t *tables) shared(zone string, at seal) shared {
	s := shared{Format: format, Zone: zone, seal: at, SessionKey: t.session,
		Counters: maps.Clone(t.counters), Permissions: maps.Clone(t.permissions)}
	for _, a := range t.sortedAuthorities() {
		s.Authorities = append(s.Authorities, authority(a))
	}
	return s
}

func (t *tables) sortedAuthorities() []disk.Authority {
	keys := slices.SortedFunc(maps.Keys(t.authorities), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	var out []disk.Authority
	for _, k := range keys {
		out = append(out, disk.Authority{Mesh: k[0], TrustDomain: k[1], Slots: t.authorities[k]})
	}
	return out
}

func (t *tables) shard(n int) (shard, error) {
	var s shard
	for _, part := range []struct {
		table map[mesh.Key]mesh.Resource
		out   *[][]byte
	}{{t.resources, &s.Resources}, {t.kept, &s.Kept}} {
		for _, r := range sortedResources(part.table) {
			if shardOf(r.Key) != n {
				continue
			}
			text, err := disk.MarshalResource(r)
			if err != nil {
				return shard{}, fmt.Errorf("%s: %w", r.Key, err)
			}
			*part.out = append(*part.out, text)
		}
	}
	return s, nil
}

func sortedResources(table map[mesh.Key]mesh.Resource) []mesh.Resource {
	return slices.SortedFunc(maps.Values(table), func(a, b mesh.Resource) int { return strings.Compare(a.Key.String(), b.Key.String()) })
}

// takeShared adopts what another instance wrote, and returns what is new in it.
func (t *tables) takeShared(s *shared) disk.Update {
	var u disk.Update
	for _, a := range s.Authorities {
		if !bytes.Equal(t.authorities[[2]string{a.Mesh, a.TrustDomain}], a.Slots) {
			u.PutAuthorities = append(u.PutAuthorities, disk.Authority(a))
		}
	}
	for name, n := range s.Counters {
		if n > t.counters[name] || n != t.counters[name] && !strings.HasPrefix(name, growing) {
			if u.Counters == nil {
				u.Counters = map[string]uint64{}
			}
			u.Counters[name] = n
		}
	}
	for name, text := range s.Permissions {
		if !bytes.Equal(t.permissions[name], text) {
			if u.Permissions == nil {
				u.Permissions = map[string][]byte{}
			}
			u.Permissions[name] = text
		}
	}
	if len(s.SessionKey) > 0 && !bytes.Equal(t.session, s.SessionKey) {
		u.SessionKey = s.SessionKey
	}
	t.apply(&u)
	return u
}
