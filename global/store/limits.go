package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// ErrInvalid: a write is malformed or larger than a store takes; the text names
// the field. Nothing was written.
var ErrInvalid = errors.New("invalid write")

// Bounds of what a store takes. The API checks tighter ones with better words;
// these protect the database from every caller.
const (
	// MaxOps of one batch.
	MaxOps = 50_000
	// MaxBatchBytes of the specs, statuses and labels of one batch.
	MaxBatchBytes = 256 << 20
	// MaxSpecBytes of one spec or status. A Secret of 1 MiB fits, sealed.
	MaxSpecBytes = 4 << 20
	// MaxNameBytes of each part of a key.
	MaxNameBytes = 253
	// MaxLabels of one resource.
	MaxLabels = 256
	// MaxLabelBytes of one key or value.
	MaxLabelBytes = 4096
	// MaxAuthorBytes of an author.
	MaxAuthorBytes = 512
	// MaxChanges that one read of the change log returns, whatever its limit.
	MaxChanges = 10_000
	// MaxChangesBytes after which a read of the change log stops early.
	MaxChangesBytes = 16 << 20
)

// CheckWrite reports what is wrong with a batch, wrapping ErrInvalid.
func CheckWrite(author string, ops []Op) error {
	if err := checkText(author, MaxAuthorBytes); err != nil {
		return fmt.Errorf("author %w: %w", err, ErrInvalid)
	}
	if len(ops) > MaxOps {
		return fmt.Errorf("%d operations in one batch, at most %d are allowed: %w", len(ops), MaxOps, ErrInvalid)
	}
	total := 0
	for i := range ops {
		n, err := checkOp(&ops[i])
		if err != nil {
			return fmt.Errorf("operation %d (%s): %w: %w", i, printable(ops[i].Resource.Key), err, ErrInvalid)
		}
		total += n
	}
	if total > MaxBatchBytes {
		return fmt.Errorf("%d bytes in one batch, at most %d are allowed: %w", total, MaxBatchBytes, ErrInvalid)
	}
	return nil
}

func checkOp(op *Op) (size int, err error) {
	r := &op.Resource
	for _, p := range []struct{ field, value string }{
		{"kind", string(r.Kind)}, {"mesh", r.Mesh}, {"zone", r.Zone}, {"name", r.Name},
	} {
		if err := checkText(p.value, MaxNameBytes); err != nil {
			return 0, fmt.Errorf("%s %w", p.field, err)
		}
	}
	if r.Kind == "" || r.Name == "" {
		return 0, errors.New("kind and name must not be empty")
	}
	if op.IfRevision != nil && *op.IfRevision < 0 {
		return 0, fmt.Errorf("the expected revision must not be negative, it is %d", *op.IfRevision)
	}
	if op.Fence != nil {
		if err := checkText(op.Fence.Name, MaxNameBytes); err != nil {
			return 0, fmt.Errorf("name of the fence %w", err)
		}
	}
	if op.Delete {
		return 0, nil
	}
	if size, err = checkLabels(r.Labels); err != nil {
		return 0, err
	}
	if err := checkJSON("spec", r.Spec, true); err != nil {
		return 0, err
	}
	if err := checkJSON("status", r.Status, false); err != nil {
		return 0, err
	}
	return size + len(r.Spec) + len(r.Status), nil
}

func checkLabels(labels map[string]string) (size int, err error) {
	if len(labels) > MaxLabels {
		return 0, fmt.Errorf("%d labels, at most %d are allowed", len(labels), MaxLabels)
	}
	for k, v := range labels {
		if err := errors.Join(checkText(k, MaxLabelBytes), checkText(v, MaxLabelBytes)); err != nil {
			return 0, fmt.Errorf("labels[%.64q] %w", k, err)
		}
		size += len(k) + len(v)
	}
	return size, nil
}

func checkJSON(field string, b json.RawMessage, required bool) error {
	switch {
	case len(b) == 0 && !required:
		return nil
	case len(b) > MaxSpecBytes:
		return fmt.Errorf("%s has %d bytes, at most %d are allowed", field, len(b), MaxSpecBytes)
	case !json.Valid(b):
		return fmt.Errorf("%s must be JSON", field)
	}
	return nil
}

func checkText(s string, limit int) error {
	switch {
	case len(s) > limit:
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(s), limit)
	case !utf8.ValidString(s) || strings.ContainsRune(s, 0):
		return errors.New("must be UTF-8 without NUL")
	}
	return nil
}

func printable(k mesh.Key) string { return fmt.Sprintf("%.300q", k.String()) }
