package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tombolo-mesh/tombolo/mesh"
)

const (
	// maxManifest bounds an object; the API server stores 1.5 MiB at most.
	maxManifest = 3 << 20
	// maxCauses and maxMessage bound what a refusal says.
	maxCauses  = 100
	maxMessage = 16 << 10
	// httpInvalid and httpForbidden are the codes of refusals.
	httpInvalid   = 422
	httpForbidden = 403
)

// Validator answers the API server's reviews of our own objects. Its answers
// depend on nothing but the request and this configuration.
type Validator struct {
	// Zone is this zone's name. Required.
	Zone string
	// ServiceAccount is the user name of the zone itself, default
	// "system:serviceaccount:tombolo-system:tombolo-zone".
	ServiceAccount string
	// MeshExists reports whether a mesh is known here; nil: not asked. It leads to
	// a warning only: global may be ahead.
	MeshExists func(name string) bool
}

// controllers delete what goes with a namespace or an owner.
func controllers() []string {
	return []string{"system:serviceaccount:kube-system:namespace-controller", "system:serviceaccount:kube-system:generic-garbage-collector"}
}

// head is what a review needs of an object besides its manifest.
type head struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
}

// Review answers one request; it has the type of webhook.Handler. A refusal
// names everything that is wrong, in the words of global's API.
func (v *Validator) Review(_ context.Context, req *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	if req.Resource.Group != mesh.ClusterGroup || req.SubResource != "" || v.trusted(req) {
		return allow(nil)
	}
	k, err := lookupKind(mesh.KindName(req.Kind.Kind))
	if err != nil {
		return allow(nil) // of a newer chart: nothing here reads it
	}
	var before, after head
	if parse(req.OldObject.Raw, &before) != nil || parse(req.Object.Raw, &after) != nil {
		return refuse(httpInvalid, metav1.StatusReasonInvalid, req, mesh.Problems{{Reason: "is no JSON object with metadata"}})
	}
	if mirrored(before.Metadata.Labels) || mirrored(after.Metadata.Labels) {
		return refuse(httpForbidden, metav1.StatusReasonForbidden, req, mesh.Problems{{Field: `metadata.labels["` + mesh.LabelOrigin + `"]`,
			Reason: fmt.Sprintf("is %s: what global authored is read-only in a cluster; change it there (tombolo apply, tombolo delete)", mesh.OriginGlobal)}})
	}
	if req.Operation == admissionv1.Delete || after.Metadata.DeletionTimestamp != nil {
		return allow(nil)
	}
	problems, warnings := v.check(k, req, &before, &after)
	if len(problems) > 0 {
		return refuse(httpInvalid, metav1.StatusReasonInvalid, req, problems)
	}
	return allow(warnings)
}

func (v *Validator) trusted(req *admissionv1.AdmissionRequest) bool {
	account := v.ServiceAccount
	if account == "" {
		account = "system:serviceaccount:" + mesh.SystemNamespace + ":tombolo-zone"
	}
	if req.UserInfo.Username == account {
		return true
	}
	for _, c := range controllers() {
		if req.Operation == admissionv1.Delete && req.UserInfo.Username == c {
			return true
		}
	}
	return false
}

func (v *Validator) check(k mesh.Kind, req *admissionv1.AdmissionRequest, before, after *head) (mesh.Problems, []string) {
	problems := placed(k, after.Metadata.Namespace)
	if len(problems) > 0 {
		return problems, nil
	}
	raw, err := named(req.Object.Raw, &after.Metadata)
	if err != nil {
		return mesh.Problems{{Reason: err.Error()}}, nil
	}
	m, err := mesh.DecodeManifest(raw, maxManifest, mesh.Key{Kind: k.Name})
	if err != nil {
		return mesh.Problems{{Reason: err.Error()}}, nil
	}
	problems = m.ValidateIn(v.Zone)
	if m.Decoded != nil {
		own := owned(v.Zone, k, m.Resource.Name, after.Metadata.Namespace, nil)
		problems = append(problems, confined(own, m.Decoded)...)
	}
	name := m.Resource.Mesh
	if req.Operation == admissionv1.Update && k.Scope == mesh.ScopeMesh {
		if was := meshOf(k, mesh.CanonicalLabels(before.Metadata.Labels)); was != name {
			problems.Addf(`metadata.labels["`+mesh.LabelMesh+`"]`, "must stay %q: a resource does not move between meshes; delete it and create another", was)
		}
	}
	var warnings []string
	if c, ok := m.Decoded.(mesh.Cautious); ok {
		warnings = c.Warnings()
	}
	if name != "" && v.MeshExists != nil && !v.MeshExists(name) {
		warnings = append(warnings, fmt.Sprintf("mesh %q is not known in zone %s: this has no effect until it is created at global", name, v.Zone))
	}
	return problems, warnings
}

// named gives an object that has no name yet the longest that it can get.
func named(raw []byte, meta *metav1.ObjectMeta) ([]byte, error) {
	if meta.Name != "" && meta.GenerateName == "" {
		return raw, nil
	}
	var whole map[string]json.RawMessage
	var inner map[string]any
	if err := json.Unmarshal(raw, &whole); err != nil {
		return nil, fmt.Errorf("is no JSON object: %w", err)
	}
	if err := json.Unmarshal(whole["metadata"], &inner); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	if meta.Name == "" {
		inner["name"] = meta.GenerateName + "xxxxx"
	}
	delete(inner, "generateName")
	text, err := json.Marshal(inner)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	whole["metadata"] = text
	return json.Marshal(whole)
}

func parse(raw []byte, into *head) error {
	if len(raw) == 0 {
		return nil
	}
	return json.Unmarshal(raw, into)
}

func allow(warnings []string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Allowed: true, Warnings: warnings}
}

func refuse(code int32, reason metav1.StatusReason, req *admissionv1.AdmissionRequest, problems mesh.Problems) *admissionv1.AdmissionResponse {
	var causes []metav1.StatusCause
	for _, p := range problems[:min(len(problems), maxCauses)] {
		causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeFieldValueInvalid, Field: p.Field, Message: p.Reason})
	}
	message := strings.TrimPrefix(problems.Error(), ": ")
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "…"
	}
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message,
		Details: &metav1.StatusDetails{Group: req.Kind.Group, Kind: req.Kind.Kind, Name: req.Name, Causes: causes}}}
}
