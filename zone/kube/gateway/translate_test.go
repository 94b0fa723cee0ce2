package gateway_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/internal/golden"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/kube/gateway"
)

// surroundings are Services by "namespace/name", and grants as "kind from to".
type surroundings struct {
	services map[string]gateway.Service
	grants   map[string]bool
}

func (s surroundings) Zone() string { return "east" }

func (s surroundings) Service(namespace, name string) (gateway.Service, bool) {
	svc, ok := s.services[namespace+"/"+name]
	return svc, ok
}

func (s surroundings) Granted(kind, from, to, _ string) bool { return s.grants[kind+" "+from+" "+to] }

// TestTranslate takes routes of testdata/*.txtar (route.yaml) and compares what
// they mean (want).
func TestTranslate(t *testing.T) {
	world := surroundings{
		services: map[string]gateway.Service{
			"shop/cart":    {Mesh: "default", Ports: map[int32]string{80: "http", 9090: ""}},
			"shop/cart-v2": {Mesh: "default", Ports: map[int32]string{80: "http"}},
			"bank/ledger":  {Mesh: "default", Ports: map[int32]string{7070: "grpc"}},
			"shop/legacy":  {Ports: map[int32]string{80: ""}},
		},
		grants: map[string]bool{"HTTPRoute shop bank": true},
	}
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, a *txtar.Archive) map[string]string {
		input, _ := golden.File(a, "route.yaml")
		var kind struct{ Kind string }
		if err := yaml.Unmarshal(input, &kind); err != nil {
			t.Fatal(err)
		}
		var route gateway.Route
		var err error
		if kind.Kind == "GRPCRoute" {
			in := &gatewayv1.GRPCRoute{}
			err = yaml.UnmarshalStrict(input, in)
			route = gateway.GRPC(in)
		} else {
			in := &gatewayv1.HTTPRoute{}
			err = yaml.UnmarshalStrict(input, in)
			route = gateway.HTTP(in)
		}
		if err != nil {
			t.Fatal(err)
		}
		return map[string]string{"want": text(t, gateway.Translate(route, world))}
	})
}

// text of a translation; what it makes must be valid and of the role it is for.
func text(t *testing.T, tr gateway.Translation) string {
	var out strings.Builder
	for _, r := range tr.Resources {
		r.Zone = "east"
		spec, err := mesh.DecodeSpec(r.Kind, r.Spec)
		if err != nil {
			t.Fatal(err)
		}
		if problems := mesh.ValidateResource(r, spec); len(problems) > 0 {
			t.Errorf("%s: %s", r.Key, problems.Error())
		}
		labels, problems := mesh.ComputeLabels(r, spec, mesh.EnvKubernetes)
		if len(problems) > 0 {
			t.Errorf("%s: %s", r.Key, problems.Error())
		}
		body, err := yaml.JSONToYAML(r.Spec)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s (%s)\n%s", r.Key, labels[mesh.LabelPolicyRole], body)
	}
	for _, s := range tr.Status {
		parent, err := json.Marshal(s.ParentRef)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "parent %s\n", parent)
		for _, c := range s.Conditions {
			fmt.Fprintf(&out, "  %s %s %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
		}
	}
	return out.String()
}
