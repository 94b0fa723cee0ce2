// Package spool holds a snapshot between the transaction that read it and a
// reader that may be slow, so that no reader holds a transaction open. In flow
// resources, out flows a sequence of them. Small spools stay in memory, larger
// ones are in a file that has no name and goes with its last handle.
package spool

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/tombolo-mesh/tombolo/global/store/internal/record"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// memory that a spool uses before it goes to a file.
const memory = 4 << 20

// Spool collects resources; the zero value with Dir set is ready.
type Spool struct {
	// Dir for the file; empty is the system's place for temporary files.
	Dir string

	buf  []byte
	file *os.File
}

// Add appends one resource.
func (s *Spool) Add(r mesh.Resource) error {
	at := len(s.buf)
	s.buf = append(s.buf, 0, 0, 0, 0)
	s.buf = record.AppendResource(s.buf, r)
	return s.added(at)
}

// AddRecord appends a resource that is a record already.
func (s *Spool) AddRecord(b []byte) error {
	at := len(s.buf)
	s.buf = append(s.buf, 0, 0, 0, 0)
	s.buf = append(s.buf, b...)
	return s.added(at)
}

func (s *Spool) added(at int) error {
	binary.BigEndian.PutUint32(s.buf[at:], uint32(len(s.buf)-at-4))
	if len(s.buf) < memory {
		return nil
	}
	return s.flush()
}

func (s *Spool) flush() error {
	if s.file == nil {
		f, err := os.CreateTemp(s.Dir, "tombolo-snapshot-*")
		if err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
		s.file = f
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
	}
	_, err := s.file.Write(s.buf)
	s.buf = s.buf[:0]
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

// Discard drops a spool that will not be read.
func (s *Spool) Discard() {
	s.buf = nil
	if s.file != nil {
		s.file.Close()
	}
}

// All returns what was added, in order, once. The spool must not be used after.
func (s *Spool) All() (iter.Seq2[mesh.Resource, error], error) {
	var in io.Reader = bytes.NewReader(s.buf)
	if s.file != nil {
		if err := s.flush(); err != nil {
			return nil, err
		}
		if _, err := s.file.Seek(0, io.SeekStart); err != nil {
			return nil, fmt.Errorf("snapshot: %w", err)
		}
		s.buf = nil
		in = bufio.NewReaderSize(s.file, 64<<10)
	}
	used := false
	return func(yield func(mesh.Resource, error) bool) {
		if used {
			yield(mesh.Resource{}, errors.New("snapshot: read twice"))
			return
		}
		used = true
		defer s.Discard()
		var buf []byte
		for {
			r, next, err := read(in, buf)
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(r, err) || err != nil {
				return
			}
			buf = next
		}
	}, nil
}

func read(in io.Reader, buf []byte) (mesh.Resource, []byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(in, size[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return mesh.Resource{}, nil, io.EOF
		}
		return mesh.Resource{}, nil, fmt.Errorf("snapshot: %w", err)
	}
	n := int(binary.BigEndian.Uint32(size[:]))
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(in, buf); err != nil {
		return mesh.Resource{}, nil, fmt.Errorf("snapshot: %v", err)
	}
	r, err := record.Resource(buf)
	if err != nil {
		return mesh.Resource{}, nil, fmt.Errorf("snapshot: %w", err)
	}
	return r, buf, nil
}
