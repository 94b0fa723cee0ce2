package helm

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
	"sigs.k8s.io/yaml"
)

// Defaults of a Release.
const (
	DefaultName      = "tombolo"
	DefaultNamespace = "tombolo-system"
)

// Release is what the chart is rendered for.
type Release struct {
	// Name of the release, default DefaultName.
	Name string
	// Namespace of the control plane, default DefaultNamespace.
	Namespace string
}

// Object is one manifest.
type Object struct {
	APIVersion, Kind string
	// Namespace is empty for what belongs to no namespace.
	Namespace, Name string
	// YAML of it, without a separator.
	YAML []byte
}

// Render gives the chart's manifests in the order in which they can be applied.
// Hooks, as the pod of `helm test`, are left out. Values are those that differ
// from the chart's own; Values makes them. An error tells every value that the
// chart's schema refuses.
func Render(release Release, values map[string]any) ([]Object, error) {
	release = Release{Name: cmp.Or(release.Name, DefaultName), Namespace: cmp.Or(release.Namespace, DefaultNamespace)}
	about, err := decode("Chart.yaml")
	if err != nil {
		return nil, err
	}
	defaults, err := decode("values.yaml")
	if err != nil {
		return nil, err
	}
	if err := check(values); err != nil {
		return nil, err
	}
	files, err := load()
	if err != nil {
		return nil, err
	}
	set, err := parse(files)
	if err != nil {
		return nil, err
	}
	data := map[string]any{
		"Values":  merge(defaults, values),
		"Chart":   map[string]any{"Name": about["name"], "Version": about["version"], "AppVersion": about["appVersion"]},
		"Release": map[string]any{"Name": release.Name, "Namespace": release.Namespace, "Service": "Helm"},
		"Files":   files,
	}
	var out []Object
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !rendered(name) {
			continue
		}
		var text bytes.Buffer
		if err := set.ExecuteTemplate(&text, name, data); err != nil {
			return nil, plain(err)
		}
		objects, err := split(text.String())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, objects...)
	}
	slices.SortStableFunc(out, func(a, b Object) int { return order(a.Kind) - order(b.Kind) })
	return out, nil
}

// Text joins manifests to one YAML stream.
func Text(objects []Object) []byte {
	var b bytes.Buffer
	for _, o := range objects {
		b.WriteString("---\n")
		b.Write(o.YAML)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// files of the chart by their path in it, and what templates call .Files.
type files map[string][]byte

// Get is the text of a file.
func (f files) Get(name string) string { return string(f[name]) }

// Glob is the files whose path matches.
func (f files) Glob(pattern string) files {
	out := files{}
	for name, text := range f {
		if ok, err := path.Match(pattern, name); err == nil && ok {
			out[name] = text
		}
	}
	return out
}

func load() (files, error) {
	out := files{}
	err := fs.WalkDir(chart, "tombolo", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		out[strings.TrimPrefix(name, "tombolo/")], err = chart.ReadFile(name)
		return err
	})
	return out, err
}

func decode(name string) (map[string]any, error) {
	text, err := chart.ReadFile("tombolo/" + name)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	if err := yaml.Unmarshal(text, &out); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}

// rendered says whether a file makes manifests.
func rendered(name string) bool {
	return strings.HasPrefix(name, "templates/") && strings.HasSuffix(name, ".yaml")
}

func parse(from files) (*template.Template, error) {
	set := template.New("tombolo").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	delete(functions, "env") // as Helm: what is rendered does not depend on where
	delete(functions, "expandenv")
	functions["include"] = func(name string, data any) (string, error) {
		var text strings.Builder
		err := set.ExecuteTemplate(&text, name, data)
		return text.String(), err
	}
	functions["required"] = func(message string, value any) (any, error) {
		if value == nil || value == "" {
			return nil, errors.New(message)
		}
		return value, nil
	}
	functions["toYaml"] = func(value any) (string, error) {
		text, err := yaml.Marshal(value)
		return strings.TrimSuffix(string(text), "\n"), err
	}
	functions["fromYaml"] = func(text string) (map[string]any, error) {
		var out map[string]any
		err := yaml.Unmarshal([]byte(text), &out)
		return out, err
	}
	set.Funcs(functions)
	for _, name := range slices.Sorted(maps.Keys(from)) {
		if !rendered(name) && !strings.HasSuffix(name, ".tpl") {
			continue
		}
		if _, err := set.New(name).Parse(string(from[name])); err != nil {
			return nil, err
		}
	}
	return set, nil
}

// plain takes what the templates' authors said out of an error, without where.
func plain(err error) error {
	text := err.Error()
	for _, call := range []string{"error calling fail: ", "error calling required: "} {
		if i := strings.LastIndex(text, call); i >= 0 {
			return errors.New(text[i+len(call):])
		}
	}
	return err
}

// split reads the objects of one file's text, without hooks.
func split(text string) ([]Object, error) {
	var out []Object
	for _, document := range strings.Split("\n"+text, "\n---") {
		if document = strings.TrimSpace(document); document == "" {
			continue
		}
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Metadata   struct {
				Name        string            `json:"name"`
				Namespace   string            `json:"namespace"`
				Annotations map[string]string `json:"annotations"`
			} `json:"metadata"`
		}
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			return nil, err
		}
		if _, hook := head.Metadata.Annotations["helm.sh/hook"]; hook || head.Kind == "" {
			continue
		}
		out = append(out, Object{APIVersion: head.APIVersion, Kind: head.Kind, Namespace: head.Metadata.Namespace, Name: head.Metadata.Name, YAML: []byte(document)})
	}
	return out, nil
}

// order is Helm's for the kinds of the chart: what others need comes first, and
// webhooks last, so that they stop nobody before they are answered.
func order(kind string) int {
	i := slices.Index([]string{"Namespace", "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount", "Secret", "ConfigMap", "CustomResourceDefinition",
		"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service", "DaemonSet", "Deployment",
		"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}, kind)
	if i < 0 {
		return 1000
	}
	return i
}
