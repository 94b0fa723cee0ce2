package webhook

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	admissionregv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// bundleRetry is the pause after a failed look.
const bundleRetry = time.Second

// Authorities are what CABundles needs of package certs.
type Authorities interface {
	// CAPEM is PEM of the authorities that clients must trust.
	CAPEM() []byte
	// Changed returns a channel that is closed when they change next.
	Changed() <-chan struct{}
}

// CABundles keeps the authorities of the webhooks in the cluster's webhook
// configurations: at the start, when the authorities change, and when somebody
// writes others there. Any instance may run it: what they write is the same.
type CABundles struct {
	// Client of the API server.
	Client dynamic.Interface
	// Name of the MutatingWebhookConfiguration and of the
	// ValidatingWebhookConfiguration, default "tombolo-zone".
	Name string
	// Authorities to publish.
	Authorities Authorities
	// Log for what is written and what goes wrong; default discards.
	Log *slog.Logger
}

// Run works until ctx ends. Configurations that do not exist are waited for.
func (b CABundles) Run(ctx context.Context) error {
	if b.Name == "" {
		b.Name = "tombolo-zone"
	}
	if b.Log == nil {
		b.Log = slog.New(slog.DiscardHandler)
	}
	done := make(chan struct{})
	for _, resource := range []string{"mutatingwebhookconfigurations", "validatingwebhookconfigurations"} {
		client := b.Client.Resource(admissionregv1.SchemeGroupVersion.WithResource(resource))
		go func() {
			defer func() { done <- struct{}{} }()
			b.keep(ctx, client, resource)
		}()
	}
	<-done
	<-done
	return nil
}

// keep watches one configuration. A failure is said once until it works again.
func (b CABundles) keep(ctx context.Context, client dynamic.ResourceInterface, resource string) {
	said := ""
	for ctx.Err() == nil {
		err := b.follow(ctx, client, resource)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			b.Log.Warn("authorities of webhooks not kept", "resource", resource, "name", b.Name, "err", err)
		}
		if err == nil {
			said = ""
		}
		select {
		case <-ctx.Done():
		case <-time.After(bundleRetry):
		}
	}
}

// follow returns when its watch ends.
func (b CABundles) follow(ctx context.Context, client dynamic.ResourceInterface, resource string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := client.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", b.Name).String()})
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer w.Stop()
	for {
		changed := b.Authorities.Changed() // before the read, so that no change is missed
		if err := b.write(ctx, client, resource); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case _, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
		}
	}
}

func (b CABundles) write(ctx context.Context, client dynamic.ResourceInterface, resource string) error {
	u, err := client.Get(ctx, b.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	patch := bundlePatch(u, b.Authorities.CAPEM())
	if patch == nil {
		return nil
	}
	_, err = client.Patch(ctx, b.Name, types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: "tombolo-zone"})
	if apierrors.IsConflict(err) || apierrors.IsInvalid(err) || apierrors.IsNotFound(err) {
		return nil // somebody else wrote meanwhile: the watch says so
	}
	if err != nil {
		return fmt.Errorf("patch: %w", err)
	}
	b.Log.Info("authorities of webhooks written", "resource", resource, "name", b.Name)
	return nil
}

// bundlePatch is the JSON patch that gives every webhook of a configuration the
// authorities, or nil when each has them.
func bundlePatch(u *unstructured.Unstructured, bundle []byte) []byte {
	webhooks, _, _ := unstructured.NestedSlice(u.Object, "webhooks")
	// The test keeps the positions true: a list that changed meanwhile is not patched.
	ops := []Op{{Op: "test", Path: "/metadata/resourceVersion", Value: u.GetResourceVersion()}}
	for i, w := range webhooks {
		fields, _ := w.(map[string]any)
		have, _, _ := unstructured.NestedString(fields, "clientConfig", "caBundle")
		if pem, err := base64.StdEncoding.DecodeString(have); err == nil && bytes.Equal(pem, bundle) {
			continue
		}
		ops = append(ops, Op{Op: "add", Path: fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), Value: base64.StdEncoding.EncodeToString(bundle)})
	}
	if len(ops) == 1 {
		return nil
	}
	out, _ := json.Marshal(ops) // strings only
	return out
}
