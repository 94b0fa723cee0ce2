package store

import (
	"errors"
	"fmt"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Check reports what is wrong with a query, wrapping ErrInvalid.
func (q Query) Check() error {
	switch {
	case q.Kind == "":
		return fmt.Errorf("kind must not be empty: %w", ErrInvalid)
	case q.Offset < 0 || q.Size < 0:
		return fmt.Errorf("offset and size must not be negative, they are %d and %d: %w", q.Offset, q.Size, ErrInvalid)
	}
	texts := []string{string(q.Kind), q.Mesh, q.NameContains}
	if q.Zone != nil {
		texts = append(texts, *q.Zone)
	}
	for _, s := range texts {
		if err := checkText(s, MaxNameBytes); err != nil {
			return fmt.Errorf("%.64q %w: %w", s, err, ErrInvalid)
		}
	}
	if _, err := checkLabels(q.Labels); err != nil {
		return errors.Join(err, ErrInvalid)
	}
	return nil
}

// CheckBounds says whether a revision is inside a history that begins after
// first and ends at last: ErrCompacted when it is before, ErrNotFound when it is
// past the end or negative.
func CheckBounds(rev, first, last mesh.Revision) error {
	switch {
	case rev < 0 || rev > last:
		return fmt.Errorf("revision %d, the last is %d: %w", rev, last, ErrNotFound)
	case rev < first:
		return fmt.Errorf("revision %d, the change log begins after %d: %w", rev, first, ErrCompacted)
	}
	return nil
}

// ChangesLimit is the limit that a read of the change log works with.
func ChangesLimit(limit int) int {
	if limit <= 0 {
		return MaxChanges
	}
	return min(limit, MaxChanges)
}
