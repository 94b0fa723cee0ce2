package helm_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/deploy/helm"
)

const minimal = "zone: {name: east}\n"

// everything has each branch of the templates at least once.
const everything = `
zone:
  name: east
  replicas: 3
  global: {address: "global.example.com:5685", existingSecret: join, existingCAConfigMap: global-ca}
  dnsNames: [zone.east.example.com, 10.0.0.1]
  extraArgs: [--proxy-lease=10m]
  podAnnotations: {a: b}
  podLabels: {c: d}
  tolerations: [{key: control, operator: Exists}]
  affinity: {nodeAffinity: {}}
  nodeSelector: {kubernetes.io/arch: arm64}
  service: {annotations: {e: f}}
image: {registry: registry.example.com/mesh, tag: v9, pullPolicy: Always, pullSecrets: [{name: pull}]}
injection: {failurePolicy: Ignore, excludedNamespaces: [monitoring], dns: false, containerPatches: [lean], resources: {requests: {cpu: 1}, limits: null}}
cni: {confDir: /var/cni, podAnnotations: {a: b}, podLabels: {a: b}, extraArgs: [--x]}
ingress:
  service: {type: NodePort, externalTrafficPolicy: Cluster}
  podAnnotations: {a: b}
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]
  meshes:
    - name: default
    - {name: payments, replicas: 1, address: "pay.example.com:443", service: {type: ClusterIP, port: 10002}}
    - {name: host, hostPort: 10443}
    - {name: shop, service: {type: LoadBalancer, loadBalancerClass: x, loadBalancerSourceRanges: [10.0.0.0/8], annotations: {g: h}, nodePort: 30001}}
crds: {keep: false}
networkPolicy: {enabled: true}
serviceMonitor: {enabled: true, labels: {release: prometheus}}
globalControlPlane:
  enabled: true
  postgres: {existingSecret: db}
  secretsKey: {existingSecret: keys}
  tls: {existingSecret: cert}
  podAnnotations: {a: b}
  service: {annotations: {a: b}}
`

// TestSameAsHelm holds the renderer to Helm itself: the same objects in the same
// order, and equal but for how YAML is laid out.
func TestSameAsHelm(t *testing.T) {
	binary := os.Getenv("TOMBOLO_HELM")
	if binary == "" {
		t.Skip("TOMBOLO_HELM names no helm binary: make e2e-kube builds one and runs this with it")
	}
	for name, values := range map[string]string{
		"minimal":    minimal,
		"everything": everything,
		"token and authorities": `{zone: {name: west, replicas: 1, global: {address: "g:1", token: " t0k3n\n", ca: "-----BEGIN\nline\n-----END\n"}},
			cni: {enabled: false}, ingress: {enabled: false}, crds: {install: false}, rbac: {create: false}}`,
		"global alone": `{zone: {enabled: false}, globalControlPlane: {enabled: true, replicas: 1, postgres: {existingSecret: db},
			secretsKey: {existingSecret: k}, tls: {existingSecret: t}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			namespace := helm.DefaultNamespace
			if name == "global alone" {
				namespace = "mesh-hub" // anywhere
			}
			file := filepath.Join(t.TempDir(), "values.yaml")
			if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
				t.Fatal(err)
			}
			var said bytes.Buffer
			command := exec.CommandContext(t.Context(), binary, "template", "mesh", "tombolo", "--namespace", namespace, "--skip-tests", "-f", file)
			command.Stderr = &said
			want, err := command.Output()
			if err != nil {
				t.Fatalf("helm: %v\n%s", err, said.Bytes())
			}
			objects, err := helm.Render(helm.Release{Name: "mesh", Namespace: namespace}, read(t, values))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(documents(t, string(want)), documents(t, string(helm.Text(objects)))); diff != "" {
				t.Errorf("helm (-), Render (+):\n%s", diff)
			}
		})
	}
}

// TestNothingVaries: two renderings are the same, byte for byte.
func TestNothingVaries(t *testing.T) {
	once, again := render(t, everything), render(t, everything)
	if !bytes.Equal(once, again) {
		t.Error("two renderings differ")
	}
}

// TestEveryBranch keeps "everything" honest: the value that turns something on
// shows in what is rendered.
func TestEveryBranch(t *testing.T) {
	text := string(render(t, everything))
	for _, want := range []string{"registry.example.com/mesh/tombolo-agent:v9", "kind: ServiceMonitor", "kind: NetworkPolicy", "tombolo-global",
		"hostPort: 10443", "nodePort: 30001", "tombolo.io/ingress-public-address: \"pay.example.com\"", "tombolo.io/ingress-public-port: \"443\"", "--dns-name=10.0.0.1", "loadBalancerClass: x",
		"failurePolicy: Ignore", "containerPatches: [\"lean\"]", "secretName: join", "name: global-ca"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the manifests", want)
		}
	}
	for _, unwanted := range []string{"resource-policy", "tombolo-zone-token"} {
		if strings.Contains(text, unwanted) {
			t.Errorf("%q is in the manifests", unwanted)
		}
	}
}

// TestRights: no Secret outside of the release's namespace, and in it only those
// that the zone owns, but for making them.
func TestRights(t *testing.T) {
	objects, err := helm.Render(helm.Release{}, read(t, minimal))
	if err != nil {
		t.Fatal(err)
	}
	roles := 0
	for _, o := range objects {
		if o.Kind != "ClusterRole" && o.Kind != "Role" {
			continue
		}
		roles++
		var role struct {
			Rules []struct{ APIGroups, Resources, ResourceNames, Verbs []string }
		}
		if err := yaml.Unmarshal(o.YAML, &role); err != nil {
			t.Fatal(err)
		}
		for _, rule := range role.Rules {
			resources, verbs := strings.Join(rule.Resources, " "), strings.Join(rule.Verbs, " ")
			if strings.Contains(verbs, "*") || strings.Contains(resources, "*") && strings.Join(rule.APIGroups, " ") != "tombolo.io" {
				t.Errorf("%s %s: everything is allowed of %q", o.Kind, o.Name, resources)
			}
			if !strings.Contains(resources, "secrets") {
				continue
			}
			if o.Kind == "ClusterRole" || len(rule.ResourceNames) == 0 && verbs != "create" {
				t.Errorf("%s %s may %s all secrets", o.Kind, o.Name, verbs)
			}
		}
	}
	if roles < 3 {
		t.Errorf("%d roles, want those of the zone and the plugin", roles)
	}
}

func TestRefused(t *testing.T) {
	for values, want := range map[string]string{
		`{}`:                                          "zone.name is required",
		`{zone: {nam: east}}`:                         "zone.nam: is not known here",
		`{zone: {name: East}}`:                        "zone.name: \"East\" must match",
		`{zone: {name: east, replicas: two}}`:         "zone.replicas: must be integer, not two",
		`{zone: {name: east, replicas: -1}}`:          "zone.replicas: must be 0 to 100, not -1",
		`{zone: {name: e, global: {address: "g:1"}}}`: "zone.global.token or zone.global.existingSecret is required",
		`{zone: {name: e}, ingress: {service: {type: Ingress}}}`:                                          "ingress.service.type: must be one of LoadBalancer NodePort ClusterIP",
		`{zone: {name: e}, ingress: {meshes: []}}`:                                                        "ingress.meshes: has 0 elements",
		`{zone: {name: e}, ingress: {meshes: [{}]}}`:                                                      "ingress.meshes[0].name: is required",
		`{zone: {name: e, podLabels: {a: 1}}}`:                                                            "zone.podLabels.a: must be string",
		`{zone: {name: e, global: {token: a, existingSecret: b}}}`:                                        "must not both be given",
		`{zone: {name: e}, globalControlPlane: {enabled: true}}`:                                          "globalControlPlane.postgres.existingSecret is required",
		`{zone: {name: e, global: {ca: a, existingCASecret: b}}}`:                                         "only one of zone.global.ca",
		`{zone: {name: e}, injection: {failurePolicy: fail}, cni: {confDir: etc}, crds: {install: yes-}}`: "crds.install: must be boolean",
	} {
		_, err := helm.Render(helm.Release{}, read(t, values))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", values, err, want)
		}
	}
}

// A zone's namespace is one that every other zone takes for the operator's.
func TestNamespace(t *testing.T) {
	if _, err := helm.Render(helm.Release{Namespace: "mesh"}, read(t, minimal)); err == nil || !strings.Contains(err.Error(), "tombolo-system, not \"mesh\"") {
		t.Error(err)
	}
}

// Global alone is global and nothing else, in any namespace: neither what a zone of
// the same cluster owns nor anything cluster-wide. Whoever may exec into it can make a
// token: what that needs besides the binary is in the environment.
func TestGlobalAlone(t *testing.T) {
	objects, err := helm.Render(helm.Release{Namespace: "mesh-global"}, read(t, `{zone: {enabled: false},
		globalControlPlane: {enabled: true, postgres: {existingSecret: db, key: url}, secretsKey: {existingSecret: keys, key: file}, tls: {existingSecret: cert}}}`))
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, o := range objects {
		kinds = append(kinds, o.Kind)
		if o.Name != "tombolo-global" || o.Namespace != "mesh-global" {
			t.Errorf("%s %s/%s", o.Kind, o.Namespace, o.Name)
		}
	}
	if diff := cmp.Diff([]string{"PodDisruptionBudget", "ServiceAccount", "Service", "Deployment"}, kinds); diff != "" {
		t.Error(diff)
	}
	var deployment struct {
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct {
						Args []string
						Env  []struct {
							Name, Value string
							ValueFrom   struct{ SecretKeyRef struct{ Name, Key string } }
						}
						VolumeMounts []struct{ Name, MountPath string }
					}
					Volumes []struct {
						Name   string
						Secret struct {
							SecretName string
							Items      []struct{ Key, Path string }
						}
					}
				}
			}
		}
	}
	for _, o := range objects {
		if o.Kind == "Deployment" {
			if err := yaml.Unmarshal(o.YAML, &deployment); err != nil {
				t.Fatal(err)
			}
		}
	}
	pod := deployment.Spec.Template.Spec
	env := map[string]string{}
	for _, e := range pod.Containers[0].Env {
		env[e.Name] = e.Value + e.ValueFrom.SecretKeyRef.Name + "/" + e.ValueFrom.SecretKeyRef.Key
	}
	if env["TOMBOLO_POSTGRES"] != "db/url" {
		t.Errorf("the database is %q", env["TOMBOLO_POSTGRES"])
	}
	// The file of the keys is where the Secret's key is mounted.
	var file string
	for _, v := range pod.Volumes {
		for _, m := range pod.Containers[0].VolumeMounts {
			if m.Name == v.Name && v.Secret.SecretName == "keys" && v.Secret.Items[0].Key == "file" {
				file = "file:" + m.MountPath + "/" + v.Secret.Items[0].Path + "/"
			}
		}
	}
	if file == "" || env["TOMBOLO_SECRETS_KEY"] != file {
		t.Errorf("the keys are at %q, mounted at %q", env["TOMBOLO_SECRETS_KEY"], file)
	}
	if strings.Contains(strings.Join(pod.Containers[0].Args, " "), "--secrets-key") {
		t.Error("a flag that `tombolo token admin` does not see")
	}
}

func TestSettings(t *testing.T) {
	got, err := helm.Values([][]byte{[]byte("a: {b: 1, c: 2}\n"), []byte("a: {c: 3}\n")},
		[]string{"a.b=x", "list[1].name=second", "list[0]={name: first}", "on=true", "n=5", "empty=", "gone=null", `text="5"`, "eq=a=b"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"a": map[string]any{"b": "x", "c": 3.0}, "on": true, "n": 5.0, "empty": "", "gone": nil, "text": "5", "eq": "a=b",
		"list": []any{map[string]any{"name": "first"}, map[string]any{"name": "second"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, wrong := range []string{"a", "=1", "a..b=1", "a[x]=1", "a[1000000]=1", "a[1=1", "a.b.c=1"} {
		if _, err := helm.Values([][]byte{[]byte("a: {b: text}")}, []string{wrong}); err == nil {
			t.Errorf("%q is accepted", wrong)
		}
	}
}

func read(t *testing.T, values string) map[string]any {
	t.Helper()
	out, err := helm.Values([][]byte{[]byte(values)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func render(t *testing.T, values string) []byte {
	t.Helper()
	objects, err := helm.Render(helm.Release{}, read(t, values))
	if err != nil {
		t.Fatal(err)
	}
	return helm.Text(objects)
}

func documents(t *testing.T, text string) (out []any) {
	t.Helper()
	for _, document := range strings.Split("\n"+text, "\n---") {
		var object any
		if err := yaml.Unmarshal([]byte(document+"\n"), &object); err != nil {
			t.Fatal(err)
		}
		if object != nil {
			out = append(out, object)
		}
	}
	return out
}
