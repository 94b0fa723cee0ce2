package cni

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	entryText = `{"type":"tombolo-cni","capabilities":{"io.kubernetes.cri.pod-annotations":true}}`
	pretty    = `{
	"cniVersion": "0.4.0",
  "name" : "k8s",
  "plugins": [
    { "type": "ptp", "ipam": {"type":"host-local", "ranges": [[{"subnet": "10.0.0.0/24"}]]} },
    {"type":"portmap","capabilities":{"portMappings":true}}
  ], "disableCheck": true
}
`
)

func TestChainAndBack(t *testing.T) {
	for name, list := range map[string]string{
		"pretty":             pretty,
		"one line":           `{"plugins":[{"type":"ptp"}],"name":"a","cniVersion":"1.0.0"}`,
		"escaped":            `{"name":"]","plugins":[{"type":"p]},{\"t"}  ] }`,
		"plugins in plugins": `{"name":"a","plugins":[{"type":"multus","delegates":[{"plugins":[]}]}]}`,
	} {
		with, err := chained([]byte(list), []byte(entryText))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		types, _, err := pluginsOf(with)
		if err != nil || types[len(types)-1] != Name || !json.Valid(with) {
			t.Errorf("%s: plugins %q, %v:\n%s", name, types, err, with)
		}
		again, err := chained(with, []byte(entryText))
		if err != nil || string(again) != string(with) {
			t.Errorf("%s: chained twice:\n%s", name, again)
		}
		back, err := unchained(with)
		if err != nil || string(back) != list {
			t.Errorf("%s: unchained:\n%s", name, back)
		}
		// Somebody else appends after us.
		more, err := chained([]byte(strings.Replace(string(with), Name, "other", 1)), []byte(entryText))
		if err != nil {
			t.Fatal(err)
		}
		if types, _, _ := pluginsOf(more); strings.Join(types[len(types)-2:], " ") != "other "+Name {
			t.Errorf("%s: %q", name, types)
		}
	}
	for _, broken := range []string{``, `[]`, `{}`, `{"plugins":{}}`, `{"plugins":[]}`, `{"plugins":[1]}`, `{"plugins":[{"type":"a"}`} {
		if out, err := chained([]byte(broken), []byte(entryText)); err == nil {
			t.Errorf("%s: %s", broken, out)
		}
	}
}

func TestUnchainFromAnywhere(t *testing.T) {
	for list, want := range map[string]string{
		`{"plugins":[{"type":"a"},{"type":"tombolo-cni"},{"type":"b"}]}`: `{"plugins":[{"type":"a"},{"type":"b"}]}`,
		`{"plugins":[{"type":"tombolo-cni"} , {"type":"b"}]}`:            `{"plugins":[{"type":"b"}]}`,
		`{"plugins":[{"type":"tombolo-cni"}]}`:                           `{"plugins":[]}`,
		`{"plugins":[{"type":"tombolo-cni"},{"type":"tombolo-cni"}]}`:    `{"plugins":[]}`,
	} {
		if got, err := unchained([]byte(list)); err != nil || string(got) != want {
			t.Errorf("%s:\n got %s, %v\nwant %s", list, got, err, want)
		}
	}
}

func FuzzChain(f *testing.F) {
	f.Add(pretty)
	f.Fuzz(func(t *testing.T, list string) {
		if strings.Contains(list, Name) {
			return
		}
		with, err := chained([]byte(list), []byte(entryText))
		if err != nil {
			return
		}
		if !json.Valid(with) {
			t.Fatalf("not JSON: %s", with)
		}
		if back, err := unchained(with); err != nil || string(back) != list {
			t.Fatalf("%q came back as %q, %v", list, back, err)
		}
	})
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func TestChainTheFirst(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := chain(dir, []byte(entryText)); err == nil || !strings.Contains(err.Error(), "no network configuration") {
		t.Errorf("empty folder: %v", err)
	}
	first, second := filepath.Join(dir, "10-a.conflist"), filepath.Join(dir, "20-b.conflist")
	write(t, first, pretty, 0o640)
	write(t, second, pretty, 0o600)
	path, changed, err := chain(dir, []byte(entryText))
	if err != nil || !changed || path != first {
		t.Fatalf("%s, %v, %v", path, changed, err)
	}
	if _, changed, err := chain(dir, []byte(entryText)); changed || err != nil {
		t.Errorf("again: changed %v, %v", changed, err)
	}
	if !strings.Contains(read(t, first), Name) || read(t, second) != pretty {
		t.Error("the first alone should be chained")
	}
	if info, _ := os.Stat(first); info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v", info.Mode())
	}
	if err := unchain(dir); err != nil {
		t.Fatal(err)
	}
	if read(t, first) != pretty || names(t, dir) != "10-a.conflist 20-b.conflist" {
		t.Errorf("after unchain: %s\n%s", names(t, dir), read(t, first))
	}
}

func TestChainASinglePlugin(t *testing.T) {
	dir := t.TempDir()
	single := filepath.Join(dir, "10-a.conf")
	const text = `{"cniVersion":"0.3.1","name":"k8s","type":"bridge","ipam":{"type":"host-local"}}` + "\n"
	write(t, single, text, 0o644)
	path, changed, err := chain(dir, []byte(entryText))
	if err != nil || !changed || path != filepath.Join(dir, "10-a.conflist") {
		t.Fatalf("%s, %v, %v", path, changed, err)
	}
	var list struct {
		CNIVersion, Name string
		Plugins          []struct{ Type string }
	}
	if err := json.Unmarshal([]byte(read(t, path)), &list); err != nil || list.CNIVersion != "0.3.1" || list.Name != "k8s" ||
		len(list.Plugins) != 2 || list.Plugins[0].Type != "bridge" || list.Plugins[1].Type != Name {
		t.Errorf("%+v, %v", list, err)
	}
	if names(t, dir) != "10-a.conf.before-tombolo 10-a.conflist" {
		t.Errorf("files %s", names(t, dir))
	}
	if _, changed, err := chain(dir, []byte(entryText)); changed || err != nil {
		t.Errorf("again: changed %v, %v", changed, err)
	}
	// Its owner writes it again, with something new.
	changedText := strings.Replace(text, "bridge", "ptp", 1)
	write(t, single, changedText, 0o644)
	if _, changed, err := chain(dir, []byte(entryText)); !changed || err != nil {
		t.Errorf("rewritten: changed %v, %v", changed, err)
	}
	if !strings.Contains(read(t, path), `"ptp"`) {
		t.Errorf("the list is of the old file:\n%s", read(t, path))
	}
	if err := unchain(dir); err != nil {
		t.Fatal(err)
	}
	if names(t, dir) != "10-a.conf" || read(t, single) != changedText {
		t.Errorf("after unchain: %s\n%s", names(t, dir), read(t, single))
	}
}
