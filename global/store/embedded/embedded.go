// Package embedded keeps resources and the log of their changes in one file
// (bbolt). In flow batches of writes, out flow revisions, reads and changes.
//
// It is the store when no database is configured: one process at a time opens
// the file, every acknowledged write is synced to disk, concurrent writers
// share a transaction, and a killed process loses nothing that it acknowledged.
package embedded

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/internal/bell"
	"github.com/tombolo-mesh/tombolo/global/store/internal/group"
	"github.com/tombolo-mesh/tombolo/mesh"
)

const (
	format = "1"
	// groupSize is how many waiting writers share a transaction.
	groupSize = 64
	// mapSize is address space, not memory: up to it the file grows without
	// waiting for readers.
	mapSize = 1 << 30
	// compactStep is how many changes one transaction drops.
	compactStep = 5000
	// digestSize of a digest in bytes.
	digestSize = 16
)

// The buckets are meta (what the file is, and where its history begins),
// resources (kind, mesh, name, zone → resource) and changes (revision → digest, change).
const (
	bucketMeta      = "meta"
	bucketResources = "resources"
	bucketChanges   = "changes"
	keyFormat       = "format"
	keyCompacted    = "compacted"
)

// Config of an embedded store.
type Config struct {
	// Path of the file. It and its folder are made if they are absent.
	Path string
	// LockTimeout is how long to wait for another process to leave the file; default 2s.
	LockTimeout time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Store implements store.Store.
type Store struct {
	db     *bolt.DB
	dir    string
	now    func() time.Time
	writes *group.Committer[*write]
	bell   *bell.Bell

	// fences by name. They need not outlive the process, nor do their holders.
	fencing sync.Mutex
	fences  map[string]int64
}

var _ store.Store = (*Store)(nil)

type write struct {
	author   string
	ops      []store.Op
	position store.Position
	err      error
}

// Open opens or creates the file.
func Open(cfg Config) (*Store, error) {
	if cfg.LockTimeout <= 0 {
		cfg.LockTimeout = 2 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	dir := filepath.Dir(cfg.Path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	db, err := bolt.Open(cfg.Path, 0o600, &bolt.Options{
		Timeout: cfg.LockTimeout, FreelistType: bolt.FreelistMapType, InitialMmapSize: mapSize, NoStatistics: true,
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open store %s: another process has it open: %w", cfg.Path, store.ErrUnavailable)
	case err != nil:
		return nil, fmt.Errorf("open store %s: %w", cfg.Path, err)
	}
	s := &Store{db: db, dir: dir, now: cfg.Now, fences: map[string]int64{}}
	s.writes = group.New(groupSize, s.commit)
	if err := s.prepare(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", cfg.Path, err), db.Close())
	}
	return s, nil
}

func (s *Store) prepare(dir string) error {
	err := s.db.Update(func(tx *bolt.Tx) error {
		for _, name := range []string{bucketMeta, bucketResources, bucketChanges} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		meta := tx.Bucket([]byte(bucketMeta))
		if got := meta.Get([]byte(keyFormat)); got != nil && string(got) != format {
			return fmt.Errorf("the file has format %s, this program reads %s", strconv.Quote(string(got)), format)
		}
		return meta.Put([]byte(keyFormat), []byte(format))
	})
	if err != nil {
		return err
	}
	// The name of a new file is durable when its folder is.
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return err
	}
	var at store.Position
	if err := s.db.View(func(tx *bolt.Tx) (err error) { at, err = head(tx); return err }); err != nil {
		return err
	}
	s.bell = bell.New(at.Revision)
	return nil
}

// Close ends waits and closes the file.
func (s *Store) Close() error {
	s.bell.Close()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// view runs a read transaction.
func (s *Store) view(ctx context.Context, what string, fn func(*bolt.Tx) error) error {
	err := ctx.Err()
	if err == nil {
		err = s.db.View(fn)
	}
	return wrap(what, err)
}

func wrap(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, berrors.ErrDatabaseNotOpen):
		return fmt.Errorf("%s: the store is closed: %w", what, store.ErrUnavailable)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func head(tx *bolt.Tx) (store.Position, error) {
	k, v := tx.Bucket([]byte(bucketChanges)).Cursor().Last()
	if k == nil {
		return compacted(tx)
	}
	return position(k, v)
}

// compacted is where the change log begins: the position before its first change.
func compacted(tx *bolt.Tx) (store.Position, error) {
	v := tx.Bucket([]byte(bucketMeta)).Get([]byte(keyCompacted))
	if v == nil {
		return store.Position{}, nil
	}
	if len(v) != 8+digestSize {
		return store.Position{}, errors.New("the start of the change log is corrupt")
	}
	return position(v[:8], v[8:])
}

func position(rev, digest []byte) (store.Position, error) {
	if len(rev) != 8 || len(digest) < digestSize {
		return store.Position{}, errors.New("the change log is corrupt")
	}
	return store.Position{
		Revision: mesh.Revision(binary.BigEndian.Uint64(rev)),
		Digest:   store.Digest(hex.EncodeToString(digest[:digestSize])),
	}, nil
}

func revisionKey(rev mesh.Revision) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(rev))
}

func resourceKey(k mesh.Key) []byte {
	b := make([]byte, 0, len(k.Kind)+len(k.Mesh)+len(k.Name)+len(k.Zone)+3)
	b = append(append(b, k.Kind...), 0)
	b = append(append(b, k.Mesh...), 0)
	b = append(append(b, k.Name...), 0)
	return append(b, k.Zone...)
}
