package webhook

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// recorder keeps events.
type recorder []string

func (r *recorder) Warn(about corev1.ObjectReference, reason, _ string) {
	*r = append(*r, about.Kind+"/"+about.Name+" "+reason)
}

func pods(r *recorder) PodsConfig {
	enabled := Namespace{Name: "shop", Labels: map[string]string{LabelInjection: "enabled"}}
	return PodsConfig{
		Inject:    func() Config { return Config{Image: "agent:1", ZoneCA: "PEM"} },
		Namespace: func(context.Context, string) (Namespace, error) { return Namespace{Name: "shop"}, nil },
		Fresh:     func(context.Context, string) (Namespace, error) { return enabled, nil },
		Recorder:  r,
	}
}

func post(t *testing.T, s *Server, body, contentType string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/inject", strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

func review(pod string, dryRun bool) string {
	text, _ := json.Marshal(map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": map[string]any{
		"uid": "u1", "operation": "CREATE", "namespace": "shop", "dryRun": dryRun,
		"resource": map[string]string{"version": "v1", "resource": "pods"}, "object": json.RawMessage(pod)}})
	return string(text)
}

func TestServer(t *testing.T) {
	const web = `{"metadata":{"name":"web"},"spec":{"containers":[{"name":"web"}]}}`
	const host = `{"metadata":{"name":"web"},"spec":{"hostNetwork":true,"containers":[{"name":"web"}]}}`
	for name, c := range map[string]struct {
		body, contentType string
		change            func(*PodsConfig)
		status            int
		allowed, patched  bool
		message           string
		events            int
	}{
		// The table does not know yet that the namespace was labelled; the API server does.
		"injected":       {body: review(web, false), status: 200, allowed: true, patched: true},
		"left alone":     {body: review(host, false), status: 200, allowed: true, events: 1},
		"dry run":        {body: review(host, true), status: 200, allowed: true},
		"bad annotation": {body: review(`{"metadata":{"annotations":{"tombolo.io/envoy-log-level":"x"}}}`, false), status: 200, message: "tombolo.io/envoy-log-level"},
		"no pod":         {body: review(`7`, false), status: 200, message: "cannot be read"},
		"no namespace": {body: review(web, false), status: 200, message: "gone away", change: func(p *PodsConfig) {
			p.Fresh = func(context.Context, string) (Namespace, error) { return Namespace{}, errors.New("gone away") }
		}},
		"no review":     {body: `{}`, status: 400},
		"no JSON":       {body: `x`, status: 400},
		"other content": {body: review(web, false), contentType: "text/plain", status: 415},
		"too much":      {body: `"` + strings.Repeat("x", maxReview) + `"`, status: 413},
	} {
		t.Run(name, func(t *testing.T) {
			var events recorder
			cfg := pods(&events)
			if c.change != nil {
				c.change(&cfg)
			}
			s := &Server{cfg: ServerConfig{Inject: Pods(cfg), Log: slog.New(slog.DiscardHandler)}, slots: make(chan struct{}, 1), reading: newGate(1), budget: patience}
			if c.contentType == "" {
				c.contentType = "application/json; charset=utf-8"
			}
			w := post(t, s, c.body, c.contentType)
			if w.Code != c.status {
				t.Fatalf("%d %s, want %d", w.Code, w.Body, c.status)
			}
			if c.status != http.StatusOK {
				return
			}
			var answer admissionv1.AdmissionReview
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Response == nil || answer.Response.UID != "u1" {
				t.Fatalf("%s: %v", w.Body, err)
			}
			r := answer.Response
			if r.Allowed != c.allowed || (len(r.Patch) > 0) != c.patched || !strings.Contains(messageOf(r), c.message) || len(events) != c.events {
				t.Errorf("%s, events %v", w.Body, events)
			}
		})
	}
}

func TestBundlePatch(t *testing.T) {
	configuration := func(bundles ...string) *unstructured.Unstructured {
		var webhooks []any
		for _, b := range bundles {
			webhooks = append(webhooks, map[string]any{"clientConfig": map[string]any{"caBundle": base64.StdEncoding.EncodeToString([]byte(b))}})
		}
		return &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"resourceVersion": "7"}, "webhooks": webhooks}}
	}
	if p := bundlePatch(configuration("A", "A"), []byte("A")); p != nil {
		t.Errorf("nothing is to be changed: %s", p)
	}
	want := `[{"op":"test","path":"/metadata/resourceVersion","value":"7"},{"op":"add","path":"/webhooks/1/clientConfig/caBundle","value":"QQ=="}]`
	if p := bundlePatch(configuration("A", "B"), []byte("A")); string(p) != want {
		t.Errorf("%s, want %s", p, want)
	}
}
