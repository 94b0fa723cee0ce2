package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tombolo-mesh/tombolo/global/api"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// source is one file of manifests.
type source struct {
	name string
	data []byte
}

// place of a document.
type place struct {
	file string
	line int
}

func (p place) String() string { return fmt.Sprintf("%s:%d", p.file, p.line) }

// readSources reads files, folders (recursively: .yaml, .yml, .json) and "-".
func readSources(names []string, stdin io.Reader) ([]source, error) {
	if len(names) == 0 {
		return nil, &exitError{exitUsage, "-f is required: a file, a folder or - for standard input"}
	}
	var out []source
	total := 0
	add := func(name string, r io.Reader) error {
		data, err := io.ReadAll(io.LimitReader(r, api.MaxBatchBody+1))
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if total += len(data); total > api.MaxBatchBody {
			return fmt.Errorf("read %s: more than %d bytes of manifests; apply them in parts", name, api.MaxBatchBody)
		}
		out = append(out, source{name, data})
		return nil
	}
	for _, name := range names {
		if name == "-" {
			if err := add("standard input", stdin); err != nil {
				return nil, err
			}
			continue
		}
		files, err := manifestFiles(name)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			f, err := os.Open(file)
			if err != nil {
				return nil, err
			}
			if err := errors.Join(add(file, f), f.Close()); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func manifestFiles(name string) ([]string, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return []string{name}, nil
	}
	var files []string
	err = filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasPrefix(d.Name(), ".") && path != name {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
			files = append(files, path)
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s has no .yaml, .yml or .json file", name)
	}
	return files, err
}

// bundle puts all documents into one request, and says where each came from.
func bundle(sources []source) (body []byte, places []place, err error) {
	var parts [][]byte
	for _, s := range sources {
		data := bytes.TrimSpace(bytes.TrimPrefix(s.data, []byte("\xef\xbb\xbf")))
		if len(data) == 0 {
			continue
		}
		manifests, err := mesh.DecodeManifests(s.data, 0)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", s.name, err)
		}
		for _, m := range manifests {
			places = append(places, place{s.name, m.Line})
		}
		var compact bytes.Buffer
		if data[0] == '{' && json.Compact(&compact, data) == nil {
			data = compact.Bytes() // JSON with tabs is no YAML
		}
		parts = append(parts, data)
	}
	if len(places) == 0 {
		return nil, nil, errors.New("there is no document in what was given")
	}
	return append(bytes.Join(parts, []byte("\n---\n")), '\n'), places, nil
}

// refused names the files of a refusal's documents.
func refused(r *refusal, places []place) string {
	var lines []string
	for _, x := range r.Invalid {
		at := fmt.Sprintf("document %d", x.Document)
		if x.Document >= 1 && x.Document <= len(places) {
			at = places[x.Document-1].String()
		}
		lines = append(lines, problemLine(at, x.Resource, x.Field, x.Reason))
	}
	if len(lines) == 0 {
		return r.Error()
	}
	return strings.Join(lines, "\n") + "\n" + r.Detail
}

func problemLine(at, resource, field, reason string) string {
	parts := []string{at, resource, field, reason}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": ")
}
