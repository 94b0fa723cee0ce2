package state

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/disk"
)

// SecretName is the Secret of what all instances share; the shards' have a number
// after it: "tombolo-state-07".
const SecretName = "tombolo-state"

const (
	dataKey = "state"
	// flushPause is the least time between two writes of the same Secret.
	flushPause = 500 * time.Millisecond
	// settle is how often a follower reads again what the leader is about to write,
	// before it starts from no position and asks global for a snapshot.
	settle = 6
	// callTimeout bounds one request.
	callTimeout = 5 * time.Second
	maxPause    = 10 * time.Second
)

// ErrFollower is something that the leader alone may write.
var ErrFollower = errors.New("another instance leads the zone and writes its state")

// Config of a Store.
type Config struct {
	// Client of the cluster. Required.
	Client dynamic.Interface
	// Namespace of the Secrets. Required.
	Namespace string
	// Zone that the state belongs to. Required.
	Zone string
	// Leads reports whether this instance writes. Required.
	Leads func() bool
	// Log, default discards.
	Log *slog.Logger
}

// Store is a disk.Store in Secrets. It is safe for concurrent use.
type Store struct {
	cfg  Config
	wake chan struct{}

	mu     sync.Mutex
	tables tables
	dirty  [shards]bool
	meta   bool
	// refused is whether what proxies refused is due; refusedStale while another
	// instance may have written it.
	refused, refusedStale bool
	// sealed is what the shards were when they were last written or read together.
	sealed seal
	// news were met while writing; Run hands them on.
	news []disk.Update

	// writing guards the Secrets' versions, and is never taken inside of mu.
	writing  sync.Mutex
	versions map[string]string
	written  map[string][sha256.Size]byte
	left     int  // classes whose quarantine did not fit
	lean     bool // what is shared did not fit when it was last packed
	// stale is true while another instance may have written since they were read.
	stale atomic.Bool
}

var _ disk.Store = (*Store)(nil)

func secrets() schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
}

func shardName(n int) string { return fmt.Sprintf("%s-%02d", SecretName, n) }

// Open reads the state. While there is none and another instance leads it waits
// for that one to begin it.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{cfg: cfg, wake: make(chan struct{}, 1)}
	tick := time.NewTicker(flushPause)
	defer tick.Stop()
	waiting := false
	for unsettled := 0; ; {
		whole, err := s.read(ctx)
		if err == nil && (len(s.tables.session) > 0 || cfg.Leads()) {
			if unsettled++; whole || cfg.Leads() || unsettled > settle {
				return s, nil
			}
		}
		if err != nil && !retriable(err) {
			return nil, fmt.Errorf("open state: %w", err)
		}
		if !waiting {
			waiting = true
			cfg.Log.Info("waiting for the zone's state", "namespace", cfg.Namespace, "secret", SecretName, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("open state: %w", errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

func retriable(err error) bool {
	return !apierrors.IsForbidden(err) && !errors.Is(err, disk.ErrDamaged)
}

// read loads every Secret of the state, and reports whether the shards are those
// that the position belongs to. Otherwise the leader is writing, or was when it
// ended: the resources are good to start from, but what is missing in them nobody
// knows, so they are at no position.
func (s *Store) read(ctx context.Context) (whole bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s.writing.Lock()
	defer s.writing.Unlock()
	s.versions, s.written = map[string]string{}, map[string][sha256.Size]byte{}
	t := newTables()
	var sh shared
	if err := s.get(ctx, SecretName, &sh); err != nil {
		return false, err
	}
	if sh.Format > format {
		return false, fmt.Errorf("%w: it has format %d, this program reads up to %d", disk.ErrDamaged, sh.Format, format)
	}
	if sh.Zone != "" && sh.Zone != s.cfg.Zone {
		return false, fmt.Errorf("%w: secret %s/%s belongs to zone %q, not %q: a zone's name is fixed once it has joined", disk.ErrDamaged, s.cfg.Namespace, SecretName, sh.Zone, s.cfg.Zone)
	}
	for n := range shards {
		var some shard
		if err := s.get(ctx, shardName(n), &some); err != nil {
			return false, err
		}
		for _, part := range []struct {
			texts [][]byte
			table map[mesh.Key]mesh.Resource
		}{{some.Resources, t.resources}, {some.Kept, t.kept}} {
			for _, text := range part.texts {
				r, err := disk.UnmarshalResource(text)
				if err != nil {
					return false, fmt.Errorf("%w: secret %s: %w", disk.ErrDamaged, shardName(n), err)
				}
				part.table[r.Key] = r
			}
		}
	}
	if t.quarantine, err = s.readQuarantine(ctx); err != nil {
		return false, err
	}
	t.takeShared(&sh)
	if whole = sh.holds(s.written); whole {
		t.position = disk.Position{Revision: mesh.Revision(sh.Revision), Digest: sh.Digest}
	}
	s.mu.Lock()
	s.tables = t
	s.sealed = sealOf(t.position, s.written)
	s.mu.Unlock()
	return whole, nil
}

// get reads one Secret into v; one that does not exist leaves v as it is.
func (s *Store) get(ctx context.Context, name string, v any) error {
	o, err := s.client().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		delete(s.versions, name)
		delete(s.written, name)
		return nil
	}
	if err != nil {
		return fmt.Errorf("secret %s: %w", name, err)
	}
	data, err := content(o)
	if err == nil {
		err = unpack(data, v)
	}
	if err != nil {
		return fmt.Errorf("%w: secret %s: %w", disk.ErrDamaged, name, err)
	}
	s.versions[name], s.written[name] = o.GetResourceVersion(), sha256.Sum256(data)
	return nil
}

func content(o *unstructured.Unstructured) ([]byte, error) {
	text, _, err := unstructured.NestedString(o.Object, "data", dataKey)
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(text)
}

func (s *Store) client() dynamic.ResourceInterface {
	return s.cfg.Client.Resource(secrets()).Namespace(s.cfg.Namespace)
}

// Load implements disk.Store.
func (s *Store) Load() (*disk.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.tables
	return &disk.State{Position: t.position, Resources: sortedResources(t.resources), Kept: sortedResources(t.kept),
		Authorities: t.sortedAuthorities(), Counters: maps.Clone(t.counters), Permissions: maps.Clone(t.permissions), Quarantine: maps.Clone(t.quarantine), SessionKey: t.session}, nil
}

// Commit implements disk.Store. Keys are written before it returns, by the leader
// alone; everything else soon after. Proxies are the API server's to know.
func (s *Store) Commit(u disk.Update) error {
	keys := len(u.PutAuthorities)+len(u.SessionKey) > 0
	if keys && !s.cfg.Leads() {
		return ErrFollower
	}
	s.mu.Lock()
	next := u
	if keys {
		next.PutAuthorities, next.SessionKey = nil, nil
	}
	dirty, meta := s.tables.apply(&next)
	for i, d := range dirty {
		s.dirty[i] = s.dirty[i] || d
	}
	s.meta, s.refused = s.meta || meta, s.refused || len(u.Quarantine) > 0
	s.mu.Unlock()
	s.poke()
	if !keys {
		return nil
	}
	return s.writeKeys(disk.Update{PutAuthorities: u.PutAuthorities, SessionKey: u.SessionKey})
}

// writeKeys writes keys at once, or refuses: another instance may have made keys
// for the same before, and those count.
func (s *Store) writeKeys(u disk.Update) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	s.writing.Lock()
	defer s.writing.Unlock()
	var there shared
	if err := s.get(ctx, SecretName, &there); err != nil {
		return err
	}
	s.mu.Lock()
	for _, a := range u.PutAuthorities {
		if _, known := s.tables.authorities[[2]string{a.Mesh, a.TrustDomain}]; !known && there.has(a.Mesh, a.TrustDomain) {
			s.news = append(s.news, s.tables.takeShared(&there))
			s.mu.Unlock()
			s.poke()
			return fmt.Errorf("authority of %s: another instance has made one: %w", a.TrustDomain, ErrFollower)
		}
	}
	s.tables.takeShared(&there)
	s.tables.apply(&u)
	next := s.tables.shared(s.cfg.Zone, s.sealed)
	s.mu.Unlock()
	return s.put(ctx, SecretName, next)
}

func (s *shared) has(meshName, trustDomain string) bool {
	for _, a := range s.Authorities {
		if a.Mesh == meshName && a.TrustDomain == trustDomain {
			return true
		}
	}
	return false
}

func (s *Store) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
