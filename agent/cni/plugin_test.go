package cni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/tombolo-mesh/tombolo/agent/redirect"
)

// netns is a network namespace of the test.
func netns(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	name := fmt.Sprintf("tcni%d-%x", os.Getpid(), time.Now().UnixNano()&0xffffff)
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Skipf("ip netns add: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	return "/run/netns/" + name
}

const (
	wanted = `{"dns":{"mode":"all"},"inbound":{"excludePorts":["8081"]}}`
	result = `{"cniVersion":"%s","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{%s"interface":0,"address":"10.1.0.5/16"}],"dns":{}}`
)

// stdin is what a runtime gives to the plugin; no annotations: it hands over none.
func stdin(t *testing.T, version string, annotations map[string]string, settings Settings) []byte {
	t.Helper()
	extra := ""
	if version < "1" {
		extra = `"version":"4",`
	}
	c := map[string]any{
		"cniVersion": version, "name": "k8s", "type": Name,
		"kubeconfig": settings.Kubeconfig, "excludeNamespaces": settings.ExcludeNamespaces, "logFile": settings.LogFile,
		"prevResult": json.RawMessage(fmt.Sprintf(result, version, extra)),
	}
	if annotations != nil {
		c["runtimeConfig"] = map[string]any{capability: annotations}
	}
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func args(netns string, stdin []byte) *skel.CmdArgs {
	return &skel.CmdArgs{ContainerID: "c1", Netns: netns, IfName: "eth0", StdinData: stdin,
		Args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=u1;K8S_POD_INFRA_CONTAINER_ID=x"}
}

func redirected(t *testing.T, netns string) bool {
	t.Helper()
	want, err := redirect.Parse([]byte(wanted))
	if err != nil {
		t.Fatal(err)
	}
	problems, err := redirect.Check(want, netns)
	if err != nil {
		t.Fatal(err)
	}
	if len(problems) > 1 {
		t.Errorf("problems %v", problems)
	}
	return len(problems) == 0
}

func injectedPod() map[string]string {
	return map[string]string{AnnotationInjected: "true", AnnotationRedirect: wanted, "a": "b"}
}

func TestAdd(t *testing.T) {
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			ns := netns(t)
			var out bytes.Buffer
			funcs := Plugin{Stdout: &out}.Funcs()
			in := args(ns, stdin(t, version, injectedPod(), Settings{LogFile: filepath.Join(t.TempDir(), "log", "cni.log")}))
			if err := funcs.Add(in); err != nil {
				t.Fatal(err)
			}
			var answer struct {
				CNIVersion string
				IPs        []struct{ Address string }
			}
			if err := json.Unmarshal(out.Bytes(), &answer); err != nil || answer.CNIVersion != version || len(answer.IPs) != 1 || answer.IPs[0].Address != "10.1.0.5/16" {
				t.Errorf("answer %s, %v", out.String(), err)
			}
			if !redirected(t, ns) {
				t.Error("not redirected")
			}
			if err := funcs.Check(in); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			if err := redirect.Remove(ns); err != nil {
				t.Fatal(err)
			}
			if err := funcs.Check(in); err == nil || !strings.Contains(err.Error(), "shop/web-1: the redirect differs: tombolo: missing") {
				t.Errorf("CHECK without rules: %v", err)
			}
			if err := funcs.Del(in); err != nil {
				t.Errorf("DEL: %v", err)
			}
		})
	}
}

func TestAddDecides(t *testing.T) {
	n := newNode(t)
	ns := netns(t)
	if _, stop := n.run(t); true {
		until(t, "kubeconfig", func() bool { return exists(filepath.Join(n.cfg.NetDir, kubeconfigName)) })
		_ = stop()
	}
	kubeconfig := filepath.Join(n.cfg.NetDir, kubeconfigName)
	metadata := func(uid string, annotations map[string]string) map[string]string {
		data, _ := json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid, "annotations": annotations}})
		return map[string]string{"/api/v1/namespaces/shop/pods/web-1": string(data)}
	}
	gone := "/run/netns/there-is-none"
	for _, tc := range []struct {
		name        string
		netns       string
		annotations map[string]string
		settings    Settings
		pods        map[string]string
		args        string
		redirected  bool
		err         string
	}{
		{name: "no sidecar", annotations: map[string]string{"a": "b"}},
		{name: "no annotations", annotations: map[string]string{}, netns: gone},
		{name: "init mode: no redirect said", annotations: map[string]string{AnnotationInjected: "true"}},
		{name: "not injected", annotations: map[string]string{AnnotationInjected: "false", AnnotationRedirect: wanted}},
		{name: "bad redirect", annotations: map[string]string{AnnotationInjected: "true", AnnotationRedirect: `{"inbound":{"port":15001}}`}, err: "shop/web-1: annotation traffic.tombolo.io/redirect: redirect: inbound.port"},
		{name: "cannot redirect", annotations: injectedPod(), netns: gone, err: "shop/web-1 has a sidecar and its traffic cannot be redirected"},
		{name: "no pod", args: "IgnoreUnknown=1", netns: gone},
		{name: "API: injected", settings: Settings{Kubeconfig: kubeconfig}, pods: metadata("u1", injectedPod()), redirected: true},
		{name: "API: not injected", settings: Settings{Kubeconfig: kubeconfig}, pods: metadata("u1", nil)},
		{name: "API: another pod", settings: Settings{Kubeconfig: kubeconfig}, pods: metadata("u2", nil), err: "knows another pod of that name"},
		{name: "API: no such pod", settings: Settings{Kubeconfig: kubeconfig}, err: "the API server did not say"},
		{name: "API: no kubeconfig", err: "no kubeconfig is configured"},
		{name: "API: excluded namespace", settings: Settings{ExcludeNamespaces: []string{"shop"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := redirect.Remove(ns); err != nil {
				t.Fatal(err)
			}
			n.pods.Store(map[string]string{})
			if tc.pods != nil {
				n.pods.Store(tc.pods)
			}
			var out bytes.Buffer
			in := args(ns, stdin(t, "1.0.0", tc.annotations, tc.settings))
			if tc.netns != "" {
				in.Netns = tc.netns
			}
			if tc.args != "" {
				in.Args = tc.args
			}
			err := Plugin{Stdout: &out}.Funcs().Add(in)
			switch {
			case tc.err == "" && (err != nil || !strings.Contains(out.String(), "10.1.0.5/16")):
				t.Errorf("%v, answer %s", err, out.String())
			case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err) || out.Len() > 0):
				t.Errorf("error %v, want %q; answer %q", err, tc.err, out.String())
			}
			if redirected(t, ns) != tc.redirected {
				t.Errorf("redirected: %v", !tc.redirected)
			}
		})
	}
}

func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log", "cni.log")
	for range 5 {
		f, err := openLog(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(make([]byte, maxLog/2+1)); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if got := names(t, filepath.Dir(path)); got != "cni.log cni.log.1" {
		t.Errorf("files %s", got)
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 2*maxLog {
		t.Errorf("%v, %v", info, err)
	}
}
