package disk

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

type proxyRecord struct {
	Resource     []byte    `json:"resource"`
	Instance     string    `json:"instance"`
	AgentVersion string    `json:"agentVersion,omitempty"`
	EnvoyVersion string    `json:"envoyVersion,omitempty"`
	NotReady     []string  `json:"notReady,omitempty"`
	LostAt       time.Time `json:"lostAt,omitzero"`
}

type positionRecord struct {
	Revision int64  `json:"revision"`
	Digest   string `json:"digest"`
}

// Load reads everything.
func (f *File) Load() (*State, error) {
	s := &State{Counters: map[string]uint64{}, Permissions: map[string][]byte{}, Quarantine: map[string][]byte{}}
	err := f.guard("load", func() error {
		return f.db.View(func(tx *bolt.Tx) error { return f.load(tx, s) })
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (f *File) load(tx *bolt.Tx, s *State) error {
	meta := tx.Bucket([]byte(bucketMeta))
	if text := meta.Get([]byte(metaPosition)); text != nil {
		var p positionRecord
		if err := json.Unmarshal(text, &p); err != nil {
			return fmt.Errorf("%w: position: %w", ErrDamaged, err)
		}
		s.Position = Position{Revision: mesh.Revision(p.Revision), Digest: p.Digest}
	}
	if sealed := meta.Get([]byte(metaSession)); sealed != nil {
		key, err := f.sealer.Open(sealed, metaSession)
		if err != nil {
			return fmt.Errorf("session key: %w", err)
		}
		s.SessionKey = key
	}
	if err := loadResources(tx.Bucket([]byte(bucketResources)), &s.Resources); err != nil {
		return err
	}
	if err := loadResources(tx.Bucket([]byte(bucketKept)), &s.Kept); err != nil {
		return err
	}
	if err := tx.Bucket([]byte(bucketProxies)).ForEach(func(k, v []byte) error {
		p, err := decodeProxy(v)
		if err != nil {
			return fmt.Errorf("%w: proxy %q: %w", ErrDamaged, k, err)
		}
		s.Proxies = append(s.Proxies, p)
		return nil
	}); err != nil {
		return err
	}
	if err := tx.Bucket([]byte(bucketAuthorities)).ForEach(func(k, v []byte) error {
		parts := strings.Split(string(k), "\x00")
		if len(parts) != 2 {
			return fmt.Errorf("%w: authority %q", ErrDamaged, k)
		}
		plain, err := f.sealer.Open(v, authorityPlace(parts[0], parts[1]))
		if err != nil {
			return fmt.Errorf("authority of %s: %w (sealed with another %s?)", parts[1], err, KeyFile)
		}
		s.Authorities = append(s.Authorities, Authority{Mesh: parts[0], TrustDomain: parts[1], Slots: plain})
		return nil
	}); err != nil {
		return err
	}
	if err := tx.Bucket([]byte(bucketCounters)).ForEach(func(k, v []byte) error {
		if len(v) != 8 {
			return fmt.Errorf("%w: counter %q", ErrDamaged, k)
		}
		s.Counters[string(k)] = binary.BigEndian.Uint64(v)
		return nil
	}); err != nil {
		return err
	}
	for bucket, into := range map[string]map[string][]byte{bucketPermissions: s.Permissions, bucketQuarantine: s.Quarantine} {
		if err := tx.Bucket([]byte(bucket)).ForEach(func(k, v []byte) error {
			into[string(k)] = bytes.Clone(v)
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func loadResources(b *bolt.Bucket, out *[]mesh.Resource) error {
	return b.ForEach(func(k, v []byte) error {
		r, err := UnmarshalResource(v)
		if err != nil {
			return fmt.Errorf("%w: resource %q: %w", ErrDamaged, k, err)
		}
		*out = append(*out, r)
		return nil
	})
}

// Commit writes an update. When it returns nil the update is durable; otherwise
// nothing of it is written. Many changes in one update cost one sync.
func (f *File) Commit(u Update) error {
	if u.Empty() {
		return nil
	}
	return f.guard("write", func() error {
		return f.db.Update(func(tx *bolt.Tx) error { return f.write(tx, &u) })
	})
}

func (f *File) write(tx *bolt.Tx, u *Update) error {
	if u.ReplaceResources {
		for _, name := range []string{bucketResources, bucketKept} {
			if err := tx.DeleteBucket([]byte(name)); err != nil {
				return err
			}
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
	}
	if err := writeResources(tx.Bucket([]byte(bucketResources)), u.PutResources, u.DeleteResources); err != nil {
		return err
	}
	if err := writeResources(tx.Bucket([]byte(bucketKept)), u.PutKept, u.DeleteKept); err != nil {
		return err
	}
	proxies := tx.Bucket([]byte(bucketProxies))
	for _, k := range u.DeleteProxies {
		if err := proxies.Delete(resourceKey(k)); err != nil {
			return err
		}
	}
	for _, p := range u.PutProxies {
		text, err := encodeProxy(p)
		if err != nil {
			return err
		}
		if err := proxies.Put(resourceKey(p.Resource.Key), text); err != nil {
			return err
		}
	}
	authorities := tx.Bucket([]byte(bucketAuthorities))
	for _, a := range u.PutAuthorities {
		sealed := f.sealer.Seal(a.Slots, authorityPlace(a.Mesh, a.TrustDomain))
		if err := authorities.Put([]byte(a.Mesh+"\x00"+a.TrustDomain), sealed); err != nil {
			return err
		}
	}
	return f.writeMeta(tx, u)
}

func (f *File) writeMeta(tx *bolt.Tx, u *Update) error {
	counters := tx.Bucket([]byte(bucketCounters))
	for _, name := range slices.Sorted(maps.Keys(u.Counters)) {
		var err error
		if n := u.Counters[name]; n == 0 {
			err = counters.Delete([]byte(name))
		} else {
			err = counters.Put([]byte(name), binary.BigEndian.AppendUint64(nil, n))
		}
		if err != nil {
			return err
		}
	}
	for bucket, texts := range map[string]map[string][]byte{bucketPermissions: u.Permissions, bucketQuarantine: u.Quarantine} {
		b := tx.Bucket([]byte(bucket))
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			var err error
			if text := texts[name]; text == nil {
				err = b.Delete([]byte(name))
			} else {
				err = b.Put([]byte(name), text)
			}
			if err != nil {
				return err
			}
		}
	}
	meta := tx.Bucket([]byte(bucketMeta))
	if len(u.SessionKey) > 0 {
		if err := meta.Put([]byte(metaSession), f.sealer.Seal(u.SessionKey, metaSession)); err != nil {
			return err
		}
	}
	if u.Position == nil {
		return nil
	}
	text, err := json.Marshal(positionRecord{Revision: int64(u.Position.Revision), Digest: u.Position.Digest})
	if err != nil {
		return err
	}
	return meta.Put([]byte(metaPosition), text)
}

func writeResources(b *bolt.Bucket, put []mesh.Resource, del []mesh.Key) error {
	for _, k := range del {
		if err := b.Delete(resourceKey(k)); err != nil {
			return err
		}
	}
	for _, r := range put {
		text, err := MarshalResource(r)
		if err != nil {
			return fmt.Errorf("%s: %w", r.Key, err)
		}
		if err := b.Put(resourceKey(r.Key), text); err != nil {
			return err
		}
	}
	return nil
}

func resourceKey(k mesh.Key) []byte {
	return []byte(strings.Join([]string{string(k.Kind), k.Mesh, k.Zone, k.Name}, "\x00"))
}

func authorityPlace(meshName, trustDomain string) string {
	return "authority/" + meshName + "/" + trustDomain
}

// MarshalResource is the form in which a resource is kept: as it travels.
func MarshalResource(r mesh.Resource) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(zonesync.FromResource(r))
}

// UnmarshalResource is the reverse of MarshalResource.
func UnmarshalResource(text []byte) (mesh.Resource, error) {
	var m zonesyncv1.Resource
	if err := proto.Unmarshal(text, &m); err != nil {
		return mesh.Resource{}, err
	}
	return zonesync.ToResource(&m), nil
}

func encodeProxy(p Proxy) ([]byte, error) {
	r, err := MarshalResource(p.Resource)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Resource.Key, err)
	}
	return json.Marshal(proxyRecord{Resource: r, Instance: p.Instance, AgentVersion: p.AgentVersion,
		EnvoyVersion: p.EnvoyVersion, NotReady: p.NotReady, LostAt: p.LostAt})
}

func decodeProxy(text []byte) (Proxy, error) {
	var rec proxyRecord
	if err := json.Unmarshal(text, &rec); err != nil {
		return Proxy{}, err
	}
	r, err := UnmarshalResource(rec.Resource)
	if err != nil {
		return Proxy{}, err
	}
	return Proxy{Resource: r, Instance: rec.Instance, AgentVersion: rec.AgentVersion,
		EnvoyVersion: rec.EnvoyVersion, NotReady: rec.NotReady, LostAt: rec.LostAt}, nil
}
