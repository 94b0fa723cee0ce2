package kubelab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// holder makes this test's binary a process that holds a lab, to be killed.
const holder = "TOMBOLO_E2E_KUBE_HOLDER"

// TestNothingIsLeft: after a test that was killed with signal 9, its cluster, its
// namespaces, mounts, control groups and files are gone.
func TestNothingIsLeft(t *testing.T) {
	if os.Getenv("TOMBOLO_E2E_KUBE") == "" || os.Getenv("TOMBOLO_E2E_KUBE_CONTEXTS") != "" {
		t.Skip("the laboratory of clusters: make e2e-kube")
	}
	cache := os.Getenv("TOMBOLO_KUBELAB")
	if cache == "" {
		cache = "../../../.cache/kubelab"
	}
	cache, err := filepath.Abs(cache)
	must(t, err)
	if os.Getenv(holder) != "" {
		l, err := Start(t.Context(), Config{Dir: "../../kubelab", Cache: cache, Logs: os.Getenv(holder), Names: []string{"killed"}})
		must(t, err)
		h, err := l.AddHost("host")
		must(t, err)
		number := strings.TrimPrefix(l.Clusters[0].Address, "172.30.0.1")
		fmt.Printf("holds %s k8s-node%s node%s %s\n", l.State, number, number, "host"+h.IP[strings.LastIndex(h.IP, ".")+1:])
		<-t.Context().Done() // until it is killed
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNothingIsLeft$")
	cmd.Env = append(os.Environ(), holder+"="+t.TempDir(), "TOMBOLO_E2E_KUBE_STATE=", "TOMBOLO_E2E_KUBE_CONTEXTS=")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var state, node string
	var links []string
	for in := bufio.NewScanner(out); state == "" && in.Scan(); {
		t.Log(in.Text())
		if rest, ok := strings.CutPrefix(in.Text(), "holds "); ok {
			words := strings.Fields(rest)
			state, node, links = words[0], words[1], words[2:]
		}
	}
	must(t, cmd.Process.Kill())
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Log(err)
	}
	cmd.Wait()
	if state == "" {
		t.Fatal("the process that holds a cluster has not got one")
	}
	killed := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for left := []string{""}; len(left) > 0; {
		if left = remains(t, state, node, links); len(left) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("a minute after the test was killed there is still: %s", strings.Join(left, "\n"))
		case <-tick.C:
		}
	}
	t.Logf("everything is gone %s after the kill", time.Since(killed).Round(100*time.Millisecond))
}

// remains lists what is left of a lab: its folder, what names it, its control groups,
// its node's network namespace, and links between nodes and hosts.
func remains(t *testing.T, state, node string, links []string) (out []string) {
	t.Helper()
	if _, err := os.Stat(state); err == nil {
		out = append(out, state)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, file := range append(lines, "/proc/mounts") {
		text, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(text), state) && !strings.Contains(file, fmt.Sprint("/", os.Getpid(), "/")) {
			out = append(out, file+": "+strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	// Control groups carry the cluster's name.
	groups, err := filepath.Glob("/sys/fs/cgroup/*/k8s-killed-*")
	must(t, err)
	deeper, err := filepath.Glob("/sys/fs/cgroup/*/*/k8s-killed-*")
	must(t, err)
	out = append(append(out, groups...), deeper...)
	if _, err := os.Stat("/run/netns/" + node); err == nil {
		out = append(out, "network namespace "+node)
	}
	if _, err := os.Stat("/run/netns/" + namespace); err != nil {
		return out // it was the last one
	}
	for _, link := range links {
		if exec.CommandContext(t.Context(), "ip", "-n", namespace, "link", "show", link).Run() == nil {
			out = append(out, "link "+link)
		}
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
