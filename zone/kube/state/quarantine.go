package state

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tombolo-mesh/tombolo/zone/disk"
)

// QuarantineName is the Secret of what proxies refused and what stands in for it.
// It is apart from the rest, since it holds what Envoy is configured with, which may
// be large: nothing else waits for it, or fails with it.
const QuarantineName = SecretName + "-quarantine"

// maxQuarantine bounds what goes into the Secret before it is packed, in bytes.
const maxQuarantine = 16 << 20

// quarantines is the content of that Secret.
type quarantines struct {
	Format  int               `json:"format"`
	Zone    string            `json:"zone"`
	Classes map[string][]byte `json:"classes,omitempty"`
}

// fit leaves out the largest classes until the rest fits the Secret: many small
// ones are worth more than a large one.
func (q quarantines) fit() (kept quarantines, left int) {
	ids := slices.SortedFunc(maps.Keys(q.Classes), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(q.Classes[a]), len(q.Classes[b])), cmp.Compare(a, b))
	})
	first := func(n int) (some quarantines, bytes int) {
		some = quarantines{Format: q.Format, Zone: q.Zone, Classes: make(map[string][]byte, n)}
		for _, id := range ids[:n] {
			some.Classes[id] = q.Classes[id]
			bytes += len(id) + len(q.Classes[id])
		}
		return some, bytes
	}
	fits := func(n int) bool {
		some, bytes := first(n)
		if bytes > maxQuarantine {
			return false
		}
		_, err := pack(some)
		return err == nil
	}
	n := len(ids)
	if !fits(n) {
		n = sort.Search(len(ids), func(n int) bool { return !fits(n + 1) })
	}
	kept, _ = first(n)
	return kept, len(ids) - n
}

// readQuarantine loads the Secret. A zone starts without what it cannot make use
// of: proxies refuse it again.
func (s *Store) readQuarantine(ctx context.Context) (map[string][]byte, error) {
	q, err := s.getQuarantine(ctx)
	switch {
	case err == nil && q.Format <= format && (q.Zone == "" || q.Zone == s.cfg.Zone):
		if q.Classes == nil {
			q.Classes = map[string][]byte{}
		}
		return q.Classes, nil
	case err == nil || !retriable(err):
		s.cfg.Log.Warn("started without what proxies refused before", "secret", QuarantineName, "zone", q.Zone, "format", q.Format, "error", err)
		return map[string][]byte{}, nil
	}
	return nil, err
}

// getQuarantine reads the Secret; its version is known also if its content is damaged,
// so that it can be written over. The caller holds s.writing.
func (s *Store) getQuarantine(ctx context.Context) (q quarantines, err error) {
	delete(s.versions, QuarantineName)
	delete(s.written, QuarantineName)
	o, err := s.client().Get(ctx, QuarantineName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return q, nil
	}
	if err != nil {
		return q, fmt.Errorf("secret %s: %w", QuarantineName, err)
	}
	s.versions[QuarantineName] = o.GetResourceVersion()
	data, err := content(o)
	if err == nil {
		err = unpack(data, &q)
	}
	if err != nil {
		return quarantines{}, fmt.Errorf("%w: secret %s: %w", disk.ErrDamaged, QuarantineName, err)
	}
	s.written[QuarantineName] = sha256.Sum256(data)
	return q, nil
}

// flushQuarantine writes the Secret if it is due and this instance leads. What the
// leader knows counts: a class of which only another instance has members is
// found out again.
func (s *Store) flushQuarantine(ctx context.Context) error {
	if !s.cfg.Leads() {
		return nil
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	due, stale := s.refused, s.refusedStale
	s.refused, s.refusedStale = false, false
	q := quarantines{Format: format, Zone: s.cfg.Zone, Classes: maps.Clone(s.tables.quarantine)}
	s.mu.Unlock()
	if !due {
		return nil
	}
	err := func() error {
		if stale {
			call, cancel := context.WithTimeout(ctx, callTimeout)
			_, err := s.getQuarantine(call)
			cancel()
			if err != nil && !errors.Is(err, disk.ErrDamaged) {
				return err
			}
		}
		if len(q.Classes) == 0 && s.versions[QuarantineName] == "" {
			return nil // the Secret is made when it is first needed
		}
		kept, left := q.fit()
		if left != s.left {
			s.left = left
			s.cfg.Log.Warn("not all that proxies refused fits its Secret: after a restart they are asked again", "secret", QuarantineName, "classes", len(q.Classes), "left out", left)
		}
		return s.put(ctx, QuarantineName, kept)
	}()
	if err != nil {
		s.mu.Lock()
		s.refused, s.refusedStale = true, true
		s.mu.Unlock()
	}
	return err
}
