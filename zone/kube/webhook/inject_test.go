package webhook

import (
	"encoding/json"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/internal/golden"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// testCase is a case's setting, in its file case.yaml.
type testCase struct {
	// Namespace of the pod; its labels are enabled by default.
	Namespace Namespace `json:"namespace"`
	// CNI instead of the init container.
	CNI bool `json:"cni"`
	// Patches by name, and those for every pod.
	Patches  map[string]*mesh.ContainerPatch `json:"patches"`
	Defaults []string                        `json:"defaults"`
	// Show our containers and volumes too.
	Show bool `json:"show"`
}

func (c testCase) config(t *testing.T) Config {
	t.Helper()
	cfg, err := Config{Image: "tombolo-agent:1", ZoneCA: "PEM\n", CNI: c.CNI, Patches: c.Defaults, Secret: func() string { return "GUESS" },
		Patch: func(name string) (*mesh.ContainerPatch, bool) { p, ok := c.Patches[name]; return p, ok }}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// Each file has a pod and the setting; wanted is the pod after it, or why not.
func TestInject(t *testing.T) {
	golden.Run(t, "testdata/inject/*.txtar", func(t *testing.T, a *txtar.Archive) map[string]string {
		c := testCase{Namespace: Namespace{Name: "shop", Labels: map[string]string{LabelInjection: "enabled"}}}
		if text, ok := golden.File(a, "case.yaml"); ok {
			if err := yaml.UnmarshalStrict(text, &c); err != nil {
				t.Fatal(err)
			}
		}
		text, _ := golden.File(a, "pod.yaml")
		pod, err := yaml.YAMLToJSON(text)
		if err != nil {
			t.Fatal(err)
		}
		after, result, err := inject(t, c, pod)
		want := map[string]string{}
		if err != nil {
			return map[string]string{"want-error": err.Error()}
		}
		if len(result.Warnings) > 0 {
			want["want-warnings"] = strings.Join(result.Warnings, "\n")
		}
		if len(result.Patch) == 0 {
			want["want-left"] = result.Left + ": " + result.Why
			return want
		}
		if _, second, err := inject(t, c, after); err != nil || len(second.Patch) > 0 {
			t.Errorf("injected again: %v, %v", second.Patch, err)
		}
		want["want-pod.yaml"] = render(t, after, c.Show)
		return want
	})
}

// inject returns the pod as the API server has it afterwards.
func inject(t *testing.T, c testCase, pod []byte) ([]byte, Result, error) {
	t.Helper()
	var p corev1.Pod
	if err := json.Unmarshal(pod, &p); err != nil {
		t.Fatal(err)
	}
	result, err := Inject(c.config(t), &p, c.Namespace)
	if err != nil || len(result.Patch) == 0 {
		return pod, result, err
	}
	text, err := json.Marshal(result.Patch)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch(text)
	if err != nil {
		t.Fatal(err)
	}
	after, err := patch.Apply(pod)
	if err != nil {
		t.Fatalf("the patch does not apply: %v\n%s", err, text)
	}
	var typed corev1.Pod
	if err := yaml.UnmarshalStrict(after, &typed); err != nil {
		t.Fatalf("no pod comes out: %v", err)
	}
	return after, result, nil
}

// render writes a pod, of our own containers and volumes only the names unless
// they are to be shown.
func render(t *testing.T, pod []byte, show bool) string {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal(pod, &fields); err != nil {
		t.Fatal(err)
	}
	spec := fields["spec"].(map[string]any)
	for _, member := range []string{"initContainers", "volumes"} {
		items, _ := spec[member].([]any)
		for i, item := range items {
			name := item.(map[string]any)["name"].(string)
			if strings.HasPrefix(name, "tombolo-") && !show {
				items[i] = map[string]any{"name": name}
			}
		}
	}
	out, err := yaml.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
