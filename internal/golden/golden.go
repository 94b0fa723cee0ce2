// Package golden compares what a test computes with what a txtar file says.
// In flow txtar archives with the input of a case and what is wanted of it, out
// flow test failures with a diff; with -update the files are rewritten instead.
package golden

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

// WantPrefix begins the names of files that hold results. One that the test no
// longer produces is an error (and is removed by -update).
const WantPrefix = "want"

var update = flag.Bool("update", false, "rewrite golden files with what the test computes")

// Updating reports whether the test runs with -update.
func Updating() bool { return *update }

// Run runs compute once for every txtar file that glob matches, each as a
// subtest named after the file. compute returns results by file name; each is
// compared with the file of that name in the archive. A missing final newline
// is added to results, since txtar cannot express it.
func Run(t *testing.T, glob string, compute func(t *testing.T, a *txtar.Archive) map[string]string) {
	t.Helper()
	paths, err := filepath.Glob(glob)
	if err != nil {
		t.Fatalf("golden files %s: %v", glob, err)
	}
	if len(paths) == 0 {
		t.Fatalf("no golden files match %s", glob)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := compute(t, a)
			if t.Failed() {
				return
			}
			for _, problem := range compare(a, got, *update) {
				t.Error(problem + "\n(rewrite with: go test -run '^" + t.Name() + "$' -update)")
			}
			if *update {
				write(t, path, a)
			}
		})
	}
}

// File returns the content of a file of the archive, and whether it is there.
func File(a *txtar.Archive, name string) ([]byte, bool) {
	i := index(a, name)
	if i < 0 {
		return nil, false
	}
	return a.Files[i].Data, true
}

// Equal compares content with the whole file at path; -update rewrites the file.
func Equal(t *testing.T, path string, content []byte) {
	t.Helper()
	want, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatalf("golden file: %v", err)
	}
	if bytes.Equal(want, content) {
		return
	}
	if !*update {
		t.Errorf("%s differs (-want +got):\n%s", path, cmp.Diff(string(want), string(content)))
		return
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatalf("update golden file: %v", err)
	}
}

// compare changes a to hold got when updating; else it says what differs.
func compare(a *txtar.Archive, got map[string]string, updating bool) []string {
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(got)) {
		text := got[name]
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		i := index(a, name)
		switch {
		case updating && i < 0:
			a.Files = append(a.Files, txtar.File{Name: name, Data: []byte(text)})
		case updating:
			a.Files[i].Data = []byte(text)
		case i < 0:
			problems = append(problems, "no file "+name+" in the archive; got:\n"+text)
		case string(a.Files[i].Data) != text:
			problems = append(problems, name+" differs (-want +got):\n"+cmp.Diff(string(a.Files[i].Data), text))
		}
	}
	stale := func(f txtar.File) bool {
		_, produced := got[f.Name]
		return strings.HasPrefix(f.Name, WantPrefix) && !produced
	}
	if updating {
		a.Files = slices.DeleteFunc(a.Files, stale)
		return nil
	}
	for _, f := range a.Files {
		if stale(f) {
			problems = append(problems, f.Name+" is in the archive, but the test produces no such result")
		}
	}
	return problems
}

func index(a *txtar.Archive, name string) int {
	return slices.IndexFunc(a.Files, func(f txtar.File) bool { return f.Name == name })
}

func write(t *testing.T, path string, a *txtar.Archive) {
	t.Helper()
	content := txtar.Format(a)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatalf("update golden file: %v", err)
	}
}
