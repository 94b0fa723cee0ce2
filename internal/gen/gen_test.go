package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const root = "../.."

func TestGeneratedFilesAreFresh(t *testing.T) {
	files, err := derive(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Errorf("%v; run make generate", err)
			continue
		}
		if diff := cmp.Diff(string(got), string(want)); diff != "" {
			t.Errorf("%s is stale; run make generate (-file +derived):\n%s", name, diff)
		}
	}
	for _, pattern := range []string{"docs/reference/*.md", "deploy/helm/tombolo/files/crds/*.yaml"} {
		pages, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pages {
			if _, ok := files[filepath.Dir(pattern)+"/"+filepath.Base(p)]; !ok {
				t.Errorf("%s is of no kind; remove it", p)
			}
		}
	}
}

func TestEveryFieldIsDocumented(t *testing.T) {
	docs, err := comments(filepath.Join(root, "mesh"))
	if err != nil {
		t.Fatal(err)
	}
	for name, doc := range docs {
		if doc == "" {
			t.Errorf("mesh.%s has no doc comment, so reference pages and schemas say nothing about it", name)
		}
	}
}
