package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
)

const (
	// check is how often a running instance looks whether to renew.
	check = time.Minute
	// retry after a failed look or a watch that ended.
	retry = 2 * time.Second
	// attempts of one look against other writers.
	attempts = 5
)

// Config says where the certificate is kept and what it is for.
type Config struct {
	// Client of the API server.
	Client dynamic.Interface
	// Namespace and Secret that hold the certificate; defaults
	// "tombolo-system" and "tombolo-webhook-certs".
	Namespace, Secret string
	// Names are the DNS names and IP addresses that clients use, at least one.
	Names []string
	// CommonName of the authority; default "Tombolo".
	CommonName string
	// Log for renewals and failures; default discards.
	Log *slog.Logger
	// Now, default time.Now.
	Now func() time.Time
}

// Certs serves a certificate. Safe for concurrent use.
type Certs struct {
	cfg    Config
	client dynamic.ResourceInterface

	mu      sync.Mutex
	have    state
	changed chan struct{} // closed and replaced when have changes
}

// New checks the configuration. It does no I/O; call Load.
func New(cfg Config) (*Certs, error) {
	if cfg.Client == nil || len(cfg.Names) == 0 {
		return nil, errors.New("certs: client and names are required")
	}
	if cfg.Namespace == "" {
		cfg.Namespace = "tombolo-system"
	}
	if cfg.Secret == "" {
		cfg.Secret = "tombolo-webhook-certs"
	}
	if cfg.CommonName == "" {
		cfg.CommonName = "Tombolo"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Names = slices.Clone(cfg.Names)
	for i, n := range cfg.Names {
		if ip := net.ParseIP(n); ip != nil {
			cfg.Names[i] = ip.String()
		}
	}
	slices.Sort(cfg.Names)
	cfg.Names = slices.Compact(cfg.Names)
	secrets := cfg.Client.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(cfg.Namespace)
	return &Certs{cfg: cfg, client: secrets, changed: make(chan struct{})}, nil
}

// Load reads the Secret, and makes or renews what is missing or old in it.
func (c *Certs) Load(ctx context.Context) error {
	var err error
	for range attempts {
		if err = c.reconcile(ctx); !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return err
}

// Run keeps the certificate current until ctx ends: it watches the Secret and
// looks each minute whether something is to be renewed. What is served stays as
// it is while the API server is away.
func (c *Certs) Run(ctx context.Context) error {
	for {
		wait := check
		if err := c.Load(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Warn("certificate not looked after", "secret", c.cfg.Secret, "err", err)
			wait = retry
		} else {
			c.watch(ctx, check)
			wait = 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// watch returns when the Secret changed, and after the given time.
func (c *Certs) watch(ctx context.Context, atMost time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	w, err := c.client.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", c.cfg.Secret).String()})
	if err != nil {
		<-ctx.Done()
		return
	}
	defer w.Stop()
	// The first event may be the object as it is; Load compares.
	for {
		select {
		case <-ctx.Done():
			return
		case event, ok := <-w.ResultChan():
			if !ok {
				select { // a server that ends watches at once is not asked in a loop
				case <-ctx.Done():
				case <-time.After(retry):
				}
				return
			}
			if secret, ok := event.Object.(*unstructured.Unstructured); ok && event.Type != "DELETED" && c.is(secret) {
				continue
			}
			return
		}
	}
}

// is says whether a Secret holds what is served.
func (c *Certs) is(u *unstructured.Unstructured) bool {
	s, err := decode(u)
	if err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.have.leaf.Cert != nil && sameData(s.Data, c.have.data())
}

func (c *Certs) reconcile(ctx context.Context) error {
	found, err := c.client.Get(ctx, c.cfg.Secret, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return fmt.Errorf("get secret %s: %w", c.cfg.Secret, err)
	}
	c.mu.Lock()
	current := c.have
	c.mu.Unlock()
	secret := &corev1.Secret{}
	if !missing {
		if secret, err = decode(found); err != nil {
			return fmt.Errorf("secret %s: %w", c.cfg.Secret, err)
		}
		stored, err := parse(secret.Data)
		switch {
		case err == nil:
			current = stored
		case len(secret.Data) > 0:
			// What cannot be read serves nobody; what this instance has still does.
			c.cfg.Log.Warn("secret cannot be used and is written again", "secret", c.cfg.Secret, "err", err)
		}
	}
	next, changed, err := renewed(current, c.cfg.CommonName, c.cfg.Names, c.cfg.Now())
	if err != nil {
		return err
	}
	if changed || missing || !sameData(secret.Data, next.data()) {
		secret.Data = next.data()
		if err := c.write(ctx, secret, missing); err != nil {
			return err
		}
		c.cfg.Log.Info("certificate written", "secret", c.cfg.Secret, "names", c.cfg.Names, "expires", next.leaf.Cert.NotAfter)
	}
	c.take(next)
	return nil
}

func (c *Certs) write(ctx context.Context, secret *corev1.Secret, create bool) error {
	secret.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}
	secret.Name, secret.Namespace = c.cfg.Secret, c.cfg.Namespace
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(secret)
	if err != nil {
		return fmt.Errorf("secret %s: %w", secret.Name, err)
	}
	u := &unstructured.Unstructured{Object: fields}
	if create {
		u.SetLabels(map[string]string{"app.kubernetes.io/managed-by": "tombolo-zone", "app.kubernetes.io/part-of": "tombolo"})
		_, err = c.client.Create(ctx, u, metav1.CreateOptions{})
	} else {
		_, err = c.client.Update(ctx, u, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write secret %s: %w", secret.Name, err)
	}
	return nil
}

func (c *Certs) take(s state) {
	c.mu.Lock()
	defer c.mu.Unlock()
	same := c.have.leaf.Cert != nil && sameData(c.have.data(), s.data())
	c.have = s
	if !same {
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// CAPEM is PEM of the authorities that clients must trust, one or several. Valid
// after Load.
func (c *Certs) CAPEM() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.have.bundle()
}

// Changed returns a channel that is closed when the certificate or the
// authorities change next.
func (c *Certs) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// TLS is a server's configuration, with the current certificate. The API server
// and agents speak TLS 1.3.
func (c *Certs) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.have.leaf.Cert == nil {
				return nil, errors.New("no certificate is loaded")
			}
			return c.have.leaf.TLS(), nil
		},
	}
}

func decode(u *unstructured.Unstructured) (*corev1.Secret, error) {
	var s corev1.Secret
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

func sameData(a, b map[string][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || !slices.Equal(v, w) {
			return false
		}
	}
	return true
}
