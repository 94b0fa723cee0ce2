package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/global/api"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
)

// serve makes a server that answers the current context, and a manifest to send.
func serve(t *testing.T, answer http.HandlerFunc) (file string) {
	t.Helper()
	web := httptest.NewServer(answer)
	t.Cleanup(web.Close)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("TOMBOLO_CONFIG", write("config.yaml", fmt.Sprintf("current: test\ncontexts: [{name: test, server: %q, tokenFile: %q}]\n", web.URL, write("token", "t"))))
	return write("m.yaml", "type: MeshTrafficPermission\nmesh: default\nname: all\nspec: {rules: [{default: {allow: [{spiffeID: {type: Prefix, value: 'spiffe://a/'}}]}}]}\n")
}

// call runs a command and returns its exit code and what it printed.
func call(t *testing.T, stdin io.Reader, args ...string) (code int, out, errs string) {
	t.Helper()
	root := rootCommand()
	var stdout, stderr bytes.Buffer
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetIn(stdin)
	root.SetArgs(args)
	if err := root.ExecuteContext(t.Context()); err != nil {
		code = exitFailed
		var exit *exitError
		if errors.As(err, &exit) {
			code = exit.code
		}
		stderr.WriteString(err.Error())
	}
	return code, stdout.String(), stderr.String()
}

func TestPlanExitCodes(t *testing.T) {
	created, same := []api.Result{{Kind: "MeshTimeout", Mesh: "default", Name: "a", Action: "created"}}, []api.Result{{Kind: "MeshTimeout", Mesh: "default", Name: "a", Action: "unchanged"}}
	away := []api.Unanswered{{Zone: "west", Reason: "it is offline"}}
	line := effect.Line{Sign: effect.Added, Area: effect.Permission, At: []string{"inbound http"}, Text: "allow x", Bearing: effect.Widens, Causes: []effect.Cause{{Kind: "MeshTrafficPermission", Mesh: "default", Name: "all", Path: "rules[0]"}}}
	east := []zonesync.Preview{{Zone: "east", Proxies: 9, Affected: 2, Effects: []zonesync.PlannedEffect{{Mesh: "default", Role: "sidecar", Proxies: 2, Workloads: []zonesync.PlannedWorkload{{Name: "web", Proxies: 2}}, Lines: []effect.Line{line},
		Envoy: []zonesync.ResourceDiff{{TypeURL: "a.b.Cluster", Name: "c", Sign: effect.Changed, Diff: "- x\n+ y\n"}}}}, Problems: []zonesync.PlannedProblem{{Kind: "MeshTimeout", Mesh: "default", Name: "a", Reason: "no such backend", Proxies: 2}}}}
	for _, c := range []struct {
		name   string
		answer any
		status int
		args   []string
		code   int
		says   []string
	}{
		{"nothing", api.Planned{Results: same}, 200, nil, 0, []string{"MeshTimeout default/a is unchanged", "0 proxies would change"}},
		{"a difference", api.Planned{Results: created, Zones: east, Unanswered: away}, 200, nil, 1,
			[]string{"MeshTimeout default/a would be created", "zone east: 2 of 9 proxies\n  2 proxies of web, mesh default\n    inbound http\n      + allow x  [widens]\n          by MeshTrafficPermission default/all rules[0]\n",
				"! MeshTimeout default/a: no such backend, 2 proxies", "zone west: nothing is known, it is offline", "1 of 2 zones answered"}},
		{"of Envoy", api.Planned{Results: created, Zones: east}, 200, []string{"-o", "envoy"}, 1, []string{"    ~ Cluster c\n      - x\n      + y\n"}},
		{"for programs", api.Planned{Results: created, Zones: east}, 200, []string{"-o", "json"}, 1, []string{`"bearing": "widens"`}},
		{"nothing known", api.Planned{Results: same, Unanswered: away}, 200, nil, exitTimeout, nil},
		{"refused", api.Problem{Title: "no", Status: 422}, 422, nil, exitPlanFailed, nil},
		{"global away", api.Problem{Title: "no", Status: 503}, 503, nil, exitOffline, nil},
		{"wrong usage", nil, 200, []string{"-o", "xml"}, exitUsage, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodPost || r.URL.Path != "/plan" {
					t.Errorf("asked %s %s", r.Method, r.URL)
				}
				w.WriteHeader(c.status)
				_ = json.NewEncoder(w).Encode(c.answer)
			})
			code, out, errs := call(t, strings.NewReader(""), append([]string{"plan", "-f", file}, c.args...)...)
			if code != c.code {
				t.Errorf("exit code %d, want %d: %s", code, c.code, errs)
			}
			for _, s := range c.says {
				if !strings.Contains(out, s) {
					t.Errorf("%q is not in\n%s", s, out)
				}
			}
		})
	}
}

// What lets callers in is written when somebody agreed, in advance or when asked.
func TestApplyAsksWhatWeakens(t *testing.T) {
	for _, c := range []struct {
		name  string
		args  []string
		code  int
		asked []string
	}{
		{"nobody to ask", nil, exitFailed, []string{"refuse"}},
		{"agreed in advance", []string{"--yes"}, 0, []string{"warn"}},
		{"a dry run writes nothing", []string{"--dry-run"}, 0, []string{"warn"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked []string
			file := serve(t, func(w http.ResponseWriter, r *http.Request) {
				how := r.URL.Query().Get("weakening")
				asked = append(asked, how)
				if how == "refuse" {
					w.WriteHeader(http.StatusConflict)
					_ = json.NewEncoder(w).Encode(api.Problem{Type: api.WeakensType, Title: "Weakens", Status: 409, Invalid: []api.InvalidParameter{{Field: "weakening", Reason: "web can be called by x"}}})
					return
				}
				_ = json.NewEncoder(w).Encode(api.Written{Revision: 7, First: 7, Warnings: []string{"web can be called by x"}})
			})
			code, _, errs := call(t, strings.NewReader("y\n"), append([]string{"apply", "-f", file}, c.args...)...)
			if code != c.code || !slices.Equal(asked, c.asked) || !strings.Contains(errs, "warning: web can be called by x") {
				t.Errorf("exit code %d after %v: %s", code, asked, errs)
			}
			if c.code != 0 && !strings.Contains(errs, "--yes") {
				t.Error("how to go on is not said:", errs)
			}
		})
	}
}
