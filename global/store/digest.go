package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"maps"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// NextDigest is the digest of a history that had digest prev and then the
// change. It covers the revision, whether the resource is gone, its key, and,
// for a put, its labels, spec and status; not who made the change, nor when.
// Every store computes it with this function, so that equal histories have
// equal digests wherever they are kept.
func NextDigest(prev Digest, change mesh.Change) Digest {
	h := sha256.New()
	text(h, string(prev))
	number(h, uint64(change.Revision))
	r := &change.Resource
	if change.Deleted {
		number(h, 1)
	} else {
		number(h, 0)
	}
	text(h, string(r.Kind))
	text(h, r.Mesh)
	text(h, r.Zone)
	text(h, r.Name)
	if !change.Deleted {
		number(h, uint64(len(r.Labels)))
		for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
			text(h, k)
			text(h, r.Labels[k])
		}
		text(h, r.Spec)
		text(h, r.Status)
	}
	return Digest(hex.EncodeToString(h.Sum(nil)[:16]))
}

// Each field is written with its length before it, so that no two changes have
// the same encoding.
func text[T ~string | ~[]byte](h hash.Hash, v T) {
	number(h, uint64(len(v)))
	h.Write([]byte(v))
}

func number(h hash.Hash, v uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	h.Write(b[:])
}
