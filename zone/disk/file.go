package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/tombolo-mesh/tombolo/identity/ca"
)

// Names of the files in a zone's data directory.
const (
	// StateFile holds the state.
	StateFile = "zone.db"
	// KeyFile holds the key that seals private keys in it.
	KeyFile = "zone.key"
)

// format of the file. A newer program reads older formats, not the other way round.
const format = 1

// Buckets of the file. Keys are the parts of a name joined by zero bytes.
const (
	bucketMeta        = "meta"
	bucketResources   = "resources"
	bucketKept        = "kept"
	bucketProxies     = "proxies"
	bucketAuthorities = "authorities"
	bucketCounters    = "counters"
	bucketPermissions = "permissions"
	bucketQuarantine  = "quarantine"
)

// Keys of the bucket meta.
const (
	metaHeader   = "header"
	metaPosition = "position"
	metaSession  = "session-key"
)

const lockTimeout = 2 * time.Second

// ErrInUse is a state file that another process has open.
var ErrInUse = errors.New("the state file is in use by another process")

// ErrDamaged is a state file that cannot be read.
var ErrDamaged = errors.New("the state file is damaged")

// Config says where the state is.
type Config struct {
	// Dir holds the state and its key; created if missing.
	Dir string
	// Zone that the state belongs to.
	Zone string
}

// File is an open state file. Its methods are safe for concurrent use.
type File struct {
	path   string
	zone   string
	db     *bolt.DB
	sealer *ca.Sealer
}

type header struct {
	Format int    `json:"format"`
	Zone   string `json:"zone"`
}

// Open opens or creates the file.
func Open(cfg Config) (*File, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	path := filepath.Join(cfg.Dir, StateFile)
	_, statErr := os.Stat(filepath.Join(cfg.Dir, KeyFile))
	_, stateErr := os.Stat(path)
	if stateErr == nil && errors.Is(statErr, os.ErrNotExist) {
		return nil, fmt.Errorf("open state %s: its key %s is missing, without which authorities cannot be opened: restore it, or move the state file away to start anew", path, KeyFile)
	}
	key, err := ca.LoadOrCreateKey(filepath.Join(cfg.Dir, KeyFile))
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	sealer, err := ca.NewSealer(key)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	f := &File{path: path, zone: cfg.Zone, sealer: sealer}
	if err := f.guard("open", f.open); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *File) open() error {
	db, err := bolt.Open(f.path, 0o600, &bolt.Options{Timeout: lockTimeout, FreelistType: bolt.FreelistMapType, NoStatistics: true})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return ErrInUse
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case err != nil:
		return err
	}
	if err := db.Update(f.prepare); err != nil {
		return errors.Join(err, db.Close())
	}
	f.db = db
	// The name of a new file is durable when its folder is.
	dir, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return errors.Join(err, db.Close())
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (f *File) prepare(tx *bolt.Tx) error {
	for _, name := range []string{bucketMeta, bucketResources, bucketKept, bucketProxies, bucketAuthorities, bucketCounters, bucketPermissions, bucketQuarantine} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	meta := tx.Bucket([]byte(bucketMeta))
	text := meta.Get([]byte(metaHeader))
	if text == nil {
		text, err := json.Marshal(header{Format: format, Zone: f.zone})
		if err != nil {
			return err
		}
		return meta.Put([]byte(metaHeader), text)
	}
	var h header
	if err := json.Unmarshal(text, &h); err != nil {
		return fmt.Errorf("%w: header: %w", ErrDamaged, err)
	}
	switch {
	case h.Format > format:
		return fmt.Errorf("the file has format %d, this program reads up to %d: run the newer program that wrote it", h.Format, format)
	case h.Zone != f.zone:
		return fmt.Errorf("the file belongs to zone %q, not %q: a zone's name is fixed once it has joined; give this zone a data directory of its own", h.Zone, f.zone)
	}
	return nil
}

// guard turns what a damaged file makes of the database into an error that says
// what to do.
func (f *File) guard(what string, fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, p)
		}
		if errors.Is(err, ErrDamaged) {
			err = fmt.Errorf("%s state %s: %w; restore it from a backup, or move it away: the zone then fetches everything from global anew and makes new authorities, so that its proxies get new certificates",
				what, f.path, err)
		} else if err != nil {
			err = fmt.Errorf("%s state %s: %w", what, f.path, err)
		}
	}()
	return fn()
}

// Close closes the file.
func (f *File) Close() error {
	if err := f.db.Close(); err != nil {
		return fmt.Errorf("close state: %w", err)
	}
	return nil
}
