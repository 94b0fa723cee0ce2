package policy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/mesh"
)

func request(t *testing.T, op admissionv1.Operation, old, object string) *admissionv1.AdmissionRequest {
	t.Helper()
	req := &admissionv1.AdmissionRequest{Operation: op, UserInfo: authenticationv1.UserInfo{Username: "alice"}}
	for _, x := range []struct {
		text string
		into *runtime.RawExtension
	}{{old, &req.OldObject}, {object, &req.Object}} {
		if x.text == "" {
			continue
		}
		raw, err := yaml.YAMLToJSON([]byte(x.text))
		if err != nil {
			t.Fatal(err)
		}
		x.into.Raw = raw
		var head struct {
			APIVersion, Kind string
			Metadata         metav1.ObjectMeta
		}
		if err := json.Unmarshal(raw, &head); err != nil {
			t.Fatal(err)
		}
		req.Kind = metav1.GroupVersionKind{Group: mesh.ClusterGroup, Version: mesh.ClusterVersion, Kind: head.Kind}
		req.Resource = metav1.GroupVersionResource{Group: mesh.ClusterGroup, Version: mesh.ClusterVersion, Resource: strings.ToLower(head.Kind) + "s"}
		req.Name, req.Namespace = head.Metadata.Name, head.Metadata.Namespace
	}
	return req
}

// timeout is a MeshTimeout; more goes into its metadata.
func timeout(namespace, more, spec string) string {
	return fmt.Sprintf("apiVersion: tombolo.io/v1alpha1\nkind: MeshTimeout\nmetadata: {name: slow, namespace: %s%s}\nspec: %s\n", namespace, more, spec)
}

// route is a MeshHTTPRoute that sends, and copies, to a namespace.
func route(namespace, to, backend string) string {
	ref := "{kind: MeshService, labels: {kuma.io/display-name: v2, k8s.kuma.io/namespace: " + backend + "}, port: 80}"
	return fmt.Sprintf("apiVersion: tombolo.io/v1alpha1\nkind: MeshHTTPRoute\nmetadata: {name: r, namespace: %s}\nspec: {to: [{targetRef: {kind: MeshService, labels: %s}, rules: [{"+
		"matches: [{path: {type: PathPrefix, value: /}}], default: {backendRefs: [%s], filters: [{type: RequestMirror, requestMirror: {backendRef: %s}}]}}]}]}\n", namespace, to, ref, ref)
}

const (
	toOwn = `{to: [{targetRef: {kind: MeshService, labels: {kuma.io/display-name: web}}, default: {idleTimeout: 1s}}]}`
	toAll = `{to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]}`
)

func TestReview(t *testing.T) {
	const create, update, remove = admissionv1.Create, admissionv1.Update, admissionv1.Delete
	copied := timeout("tombolo-system", ", labels: {tombolo.io/origin: global}", toAll)
	for _, c := range []struct {
		what        string
		op          admissionv1.Operation
		old, object string
		user        string
		// says of the refusal; empty: allowed.
		says []string
		warn string
	}{
		{what: "a policy", op: create, object: timeout("shop", "", toOwn)},
		{what: "in Kuma's labels", op: create, object: timeout("shop", ", labels: {kuma.io/mesh: default}", toOwn)},
		{what: "everything that is wrong at once", op: create, object: timeout("shop", "", `{tow: 1, to: [{targetRef: {kind: Mush}, default: {idleTimeout: -1s}}]}`),
			says: []string{"spec.tow: unknown field", "spec.to[0].targetRef.kind: must not be \"Mush\"", "spec.to[0].default.idleTimeout: must not be negative"}},
		{what: "no role", op: create, object: timeout("shop", "", `{to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}, {targetRef: {kind: MeshService, labels: {kuma.io/display-name: web}}, default: {idleTimeout: 1s}}]}`),
			says: []string{"spec.to: mixes items"}},
		{what: "another role", op: create, object: timeout("shop", ", labels: {kuma.io/policy-role: system}", toAll),
			says: []string{`metadata.labels["tombolo.io/policy-role"]: must be "consumer" or absent`}},
		{what: "another zone", op: create, object: timeout("shop", ", labels: {kuma.io/zone: west}", toAll), says: []string{`must be "east" or absent`}},
		{what: "another display name", op: create, object: timeout("shop", ", labels: {kuma.io/display-name: x}", toAll), says: []string{`must be "slow" or absent`}},
		{what: "another namespace", op: create, object: timeout("shop", ", labels: {k8s.kuma.io/namespace: tombolo-system}", toAll), says: []string{"metadata.namespace is \"shop\""}},
		{what: "a generated name", op: create, object: strings.Replace(timeout("shop", "", toAll), "name: slow", "generateName: slow-", 1)},
		{what: "a bad generated name", op: create, object: strings.Replace(timeout("shop", "", toAll), "name: slow", "generateName: Slow-", 1), says: []string{"metadata.name"}},
		{what: "a move to another mesh", op: update, old: timeout("shop", "", toAll), object: timeout("shop", ", labels: {tombolo.io/mesh: bank}", toAll), says: []string{`must stay "default"`}},
		{what: "the same mesh in other words", op: update, old: timeout("shop", "", toAll), object: timeout("shop", ", labels: {kuma.io/mesh: default}", toAll)},
		{what: "a mesh that is not there", op: create, object: timeout("shop", ", labels: {tombolo.io/mesh: bank}", toAll), warn: `mesh "bank" is not known`},
		{what: "an invalid one is deleted", op: remove, old: timeout("shop", "", `{}`)},
		{what: "an invalid one is finalized", op: update, old: timeout("shop", "", `{}`), object: timeout("shop", `, deletionTimestamp: "2026-01-01T00:00:00Z"`, `{}`)},
		{what: "a copy is changed", op: update, old: copied, object: timeout("tombolo-system", "", toAll), says: []string{"read-only in a cluster"}},
		{what: "a copy is deleted", op: remove, old: copied, says: []string{"read-only in a cluster"}},
		{what: "a copy is forged", op: create, object: timeout("shop", ", labels: {kuma.io/origin: global}", toAll), says: []string{"read-only in a cluster"}},
		{what: "the zone writes its copies", op: update, old: copied, object: copied, user: "system:serviceaccount:tombolo-system:tombolo-zone"},
		{what: "the namespace goes", op: remove, old: copied, user: "system:serviceaccount:kube-system:namespace-controller"},
		{what: "its controller creates nothing", op: create, object: copied, user: "system:serviceaccount:kube-system:namespace-controller", says: []string{"read-only"}},
		{what: "a mesh", op: create, object: "apiVersion: tombolo.io/v1alpha1\nkind: Mesh\nmetadata: {name: bank}\nspec: {}\n", says: []string{"kind: a Mesh is written at global"}},
		{what: "an identity", op: create, object: "apiVersion: tombolo.io/v1alpha1\nkind: MeshIdentity\nmetadata: {name: id, namespace: tombolo-system}\nspec: {provider: {type: Bundled}}\n", says: []string{"is written at global"}},
		{what: "a generator of an app team", op: create, object: "apiVersion: tombolo.io/v1alpha1\nkind: HostnameGenerator\nmetadata: {name: g, namespace: shop}\nspec: {selector: {meshService: {}}, template: '{{ .DisplayName }}.mesh'}\n", says: []string{"metadata.namespace: must be tombolo-system"}},
		{what: "a generator of the operator", op: create, object: "apiVersion: tombolo.io/v1alpha1\nkind: HostnameGenerator\nmetadata: {name: g, namespace: tombolo-system}\nspec: {selector: {meshService: {}}, template: '{{ .DisplayName }}.mesh'}\n"},
		{what: "a patch of containers", op: create, object: "apiVersion: tombolo.io/v1alpha1\nkind: ContainerPatch\nmetadata: {name: g, namespace: tombolo-system}\nspec: {sidecarPatch: [{op: add, path: /x, value: {a: [1]}}]}\n"},
		{what: "a bad patch of containers", op: create, object: "apiVersion: tombolo.io/v1alpha1\nkind: ContainerPatch\nmetadata: {name: g, namespace: tombolo-system}\nspec: {sidecarPatch: [{op: ad, path: /x, value: 1}], x: 1}\n",
			says: []string{"spec.sidecarPatch[0].op: must be add", "spec.x: unknown field"}},
		{what: "a service", op: create, object: "apiVersion: tombolo.io/v1alpha1\nkind: MeshService\nmetadata: {name: db, namespace: shop}\nspec: {selector: {dataplaneLabels: {matchLabels: {app: db, k8s.kuma.io/namespace: shop}}}, ports: [{port: 5432}]}\n"},
		{what: "a service of others' pods", op: create, object: "apiVersion: tombolo.io/v1alpha1\nkind: MeshService\nmetadata: {name: db, namespace: shop}\nspec: {selector: {dataplaneLabels: {matchLabels: {app: db}}}, ports: [{port: 5432}]}\n",
			says: []string{"matchLabels: must have k8s.tombolo.io/namespace: shop"}},
		{what: "a service of another's pod", op: create, object: "apiVersion: tombolo.io/v1alpha1\nkind: MeshService\nmetadata: {name: db, namespace: shop}\nspec: {selector: {dataplaneRef: {name: db-0.bank}}, ports: [{port: 5432}]}\n",
			says: []string{"dataplaneRef.name: must be <pod>.shop"}},
		{what: "the operator's service of anyone's pods", op: create, object: "apiVersion: tombolo.io/v1alpha1\nkind: MeshService\nmetadata: {name: db, namespace: tombolo-system}\nspec: {selector: {dataplaneLabels: {matchLabels: {app: db}}}, ports: [{port: 5432}]}\n"},
		{what: "a producer's route to itself", op: create, object: route("shop", "{kuma.io/display-name: web}", "shop")},
		{what: "a producer's route to others", op: create, object: route("shop", "{kuma.io/display-name: web}", "bank"), says: []string{
			`spec.to[0].rules[0].default.backendRefs[0].labels["k8s.tombolo.io/namespace"]: must be "shop" or absent`, `filters[0].requestMirror.backendRef.labels`}},
		{what: "a consumer's route to others", op: create, object: route("shop", "{kuma.io/display-name: web, k8s.kuma.io/namespace: bank}", "bank")},
		{what: "the operator's route", op: create, object: route("tombolo-system", "{kuma.io/display-name: web}", "bank")},
		{what: "a service whose name is no label", op: create, object: "apiVersion: tombolo.io/v1alpha1\nkind: MeshService\nmetadata: {name: db.v1, namespace: shop}\nspec: {ports: [{port: 5432}]}\n", says: []string{"metadata.name"}},
		{what: "a kind of a newer chart", op: create, object: "apiVersion: tombolo.io/v1alpha1\nkind: MeshTomorrow\nmetadata: {name: x, namespace: shop}\nspec: {}\n"},
	} {
		t.Run(c.what, func(t *testing.T) {
			req := request(t, c.op, c.old, c.object)
			if c.user != "" {
				req.UserInfo.Username = c.user
			}
			v := Validator{Zone: "east", MeshExists: func(m string) bool { return m == "default" }}
			got := v.Review(t.Context(), req)
			if got.Allowed != (len(c.says) == 0) {
				t.Fatalf("allowed: %v, %+v", got.Allowed, got.Result)
			}
			for _, want := range c.says {
				if !strings.Contains(got.Result.Message, want) {
					t.Errorf("does not say %q:\n%s", want, got.Result.Message)
				}
			}
			if c.warn == "" && len(got.Warnings) > 0 || !strings.Contains(strings.Join(got.Warnings, "\n"), c.warn) {
				t.Errorf("warnings %q, want %q", got.Warnings, c.warn)
			}
		})
	}
}

// The same words as global's API: both come from one validation.
func TestReviewSaysWhatTheAPISays(t *testing.T) {
	bad := timeout("shop", "", `{to: [{targetRef: {kind: Mush}, default: {idleTimeout: -1s}}], rules: [{default: {}}]}`)
	m, err := mesh.DecodeManifest([]byte(bad), 0, mesh.Key{})
	if err != nil {
		t.Fatal(err)
	}
	got := (&Validator{Zone: "east"}).Review(t.Context(), request(t, admissionv1.Create, "", bad))
	for _, p := range m.Validate() {
		found := false
		for _, c := range got.Result.Details.Causes {
			found = found || c.Field == p.Field && c.Message == p.Reason
		}
		if !found {
			t.Errorf("missing: %s: %s", p.Field, p.Reason)
		}
	}
	if len(got.Result.Details.Causes) < 3 {
		t.Errorf("%+v", got.Result.Details.Causes)
	}
}
