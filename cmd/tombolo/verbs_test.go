package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// printless are the verbs without -o, with the reason.
func printless() map[string]string {
	return map[string]string{
		"tombolo global":                "a control plane",
		"tombolo zone":                  "a control plane",
		"tombolo migrate":               "a control plane",
		"tombolo dev":                   "a laboratory",
		"tombolo config set-context":    "prints nothing",
		"tombolo config use-context":    "prints nothing",
		"tombolo config delete-context": "prints nothing",
		"tombolo config view":           "prints a file as it is",
		"tombolo convert":               "prints manifests",
		"tombolo install zone":          "prints manifests",
		"tombolo install crds":          "prints manifests",
		"tombolo uninstall zone":        "prints manifests",
		"tombolo token admin":           "prints a token, for a file",
	}
}

// Every verb shows how it is used, and what it prints can be read by programs.
func TestVerbsHaveExamplesAndFormats(t *testing.T) {
	exempt := printless()
	seen := map[string]bool{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		path := c.CommandPath()
		if c.Hidden {
			return
		}
		seen[path] = true
		if c.Short == "" || !strings.Contains(c.Example, path) {
			t.Errorf("%s: --help must say what it does, with an example of %q", path, path)
		}
		o := c.Flags().Lookup("output")
		switch {
		case c.HasSubCommands() && exempt[path] == "":
		case exempt[path] != "":
			if o != nil {
				t.Errorf("%s has -o, and need not be exempt", path)
			}
		case o == nil:
			t.Errorf("%s: -o is missing", path)
		case !strings.Contains(o.Usage, "yaml") || !strings.Contains(o.Usage, "json"):
			t.Errorf("%s: -o offers %q", path, o.Usage)
		}
	}
	walk(rootCommand())
	for path := range exempt {
		if !seen[path] {
			t.Errorf("%s is exempt and no verb", path)
		}
	}
}

func TestStatistics(t *testing.T) {
	got := statistics([]byte("cluster.a.upstream_rq_total: 7\nlistener_manager.lds.version_text: \"62\"\ncluster.a.upstream_rq_time: P50(1,2) P99(nan,3)\n\n"))
	want := map[string]any{"cluster.a.upstream_rq_total": int64(7), "listener_manager.lds.version_text": "62", "cluster.a.upstream_rq_time": "P50(1,2) P99(nan,3)"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
