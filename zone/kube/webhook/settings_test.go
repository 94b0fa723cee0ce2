package webhook

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestReadSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "injection.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`
image: registry.example.com/tombolo-agent:v1
imagePullPolicy: Always
cni: true
dns: false
waitTimeoutSeconds: 30
containerPatches: [lean]
resources: {requests: {cpu: 1}, limits: {memory: 1Gi}}
`)
	c, err := ReadSettings(file)
	if err != nil {
		t.Fatal(err)
	}
	if c.Image != "registry.example.com/tombolo-agent:v1" || c.PullPolicy != corev1.PullAlways || !c.CNI || !c.WithoutDNS || c.WaitTimeout != 30 ||
		len(c.Patches) != 1 || c.Resources.Requests.Cpu().String() != "1" || c.Resources.Limits.Memory().String() != "1Gi" {
		t.Errorf("read %+v", c)
	}
	for text, want := range map[string]string{
		"cni: true":                                                       "image is required",
		"image: a\nimagePullPolicy: Sometimes":                            "imagePullPolicy must be Always, IfNotPresent or Never",
		"image: a\nwaitTimeoutSeconds: 3600":                              "waitTimeoutSeconds must be 0 to 600",
		"image: a\nimages: b":                                             "unknown field \"images\"",
		"image: a\nresources: {requests: many}":                           "resources",
		"image: " + strings.Repeat("a", 300<<10):                          "must have at most",
		"image: a\ncontainerPatches: [" + strings.Repeat("a,", 16) + "a]": "containerPatches must have at most 16",
	} {
		write(text)
		if _, err := ReadSettings(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
	if c, err := parseSettings([]byte("image: a")); err != nil || c.WithoutDNS || c.CNI {
		t.Errorf("defaults: %+v, %v", c, err)
	}
}
