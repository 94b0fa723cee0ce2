package cluster

import (
	"fmt"
	"log/slog"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Bounds of what one zone asks of the API server. Watches do not count.
const (
	requestsPerSecond = 100
	requestBurst      = 200
)

// How long a watch that broke waits before it tries again.
const (
	retryFirst = 200 * time.Millisecond
	retryMost  = 5 * time.Second
)

// Config of a Client.
type Config struct {
	// Kubeconfig is a file; empty: the service account of the pod that this runs in.
	Kubeconfig string
	// Context of the kubeconfig; empty: its current one.
	Context string
	// Component names this program in Events and to the API server, default "tombolo-zone".
	Component string
	// Log, default discards.
	Log *slog.Logger
}

// Client reaches one cluster.
type Client struct {
	// Config for further clients; its content type is not set.
	Config *rest.Config
	// Core is the client of core/v1, Discovery of discovery.k8s.io/v1 and
	// Authentication of authentication.k8s.io/v1. They speak protobuf.
	Core, Discovery, Authentication rest.Interface
	// Dynamic speaks JSON with custom resources.
	Dynamic dynamic.Interface
	// Events are written with it; see Recorder.
	Events *Recorder

	log *slog.Logger
}

// Connect makes the clients. It reads files, and does not reach for the API
// server: whether it answers shows with the first request.
func Connect(cfg Config) (*Client, error) {
	if cfg.Component == "" {
		cfg.Component = "tombolo-zone"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	rc, err := load(cfg)
	if err != nil {
		return nil, err
	}
	rc.UserAgent, rc.QPS, rc.Burst = cfg.Component, requestsPerSecond, requestBurst
	c := &Client{Config: rc, log: cfg.Log}
	for _, api := range []struct {
		to    *rest.Interface
		group schema.GroupVersion
		add   func(*runtime.Scheme) error
	}{
		{&c.Core, corev1.SchemeGroupVersion, corev1.AddToScheme},
		{&c.Discovery, discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme},
		{&c.Authentication, authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme},
	} {
		if *api.to, err = c.Typed(api.group, api.add); err != nil {
			return nil, err
		}
	}
	if c.Dynamic, err = dynamic.NewForConfig(rc); err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	c.Events = newRecorder(c.Core, cfg.Component, cfg.Log)
	return c, nil
}

func load(cfg Config) (*rest.Config, error) {
	if cfg.Kubeconfig == "" {
		rc, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("kubernetes: not in a pod, so a kubeconfig is required: %w", err)
		}
		return rc, nil
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: cfg.Kubeconfig}
	rc, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: cfg.Context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", cfg.Kubeconfig, err)
	}
	return rc, nil
}

// Typed makes a client of another API group, for example
// admissionregistration.k8s.io/v1, whose types add registers. It speaks protobuf
// and shares the connection of the others.
func (c *Client) Typed(gv schema.GroupVersion, add func(*runtime.Scheme) error) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := add(scheme); err != nil {
		return nil, fmt.Errorf("kubernetes client of %s: %w", gv, err)
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	rc := rest.CopyConfig(c.Config)
	rc.GroupVersion, rc.APIPath = &gv, "/apis"
	if gv.Group == "" {
		rc.APIPath = "/api"
	}
	rc.ContentType = runtime.ContentTypeProtobuf
	rc.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	rc.NegotiatedSerializer = rest.CodecFactoryForGeneratedClient(scheme, serializer.NewCodecFactory(scheme)).WithoutConversion()
	client, err := rest.RESTClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client of %s: %w", gv, err)
	}
	return client, nil
}
