package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sync/errgroup"
)

// Files of the daemon on a node.
const (
	kubeconfigName = "tombolo-cni.kubeconfig"
	// settle is how long a burst of changes by others may last before it is looked at.
	settle = 50 * time.Millisecond
	// The pauses between two repairs, when somebody undoes each at once.
	pauseFirst, pauseMost = 100 * time.Millisecond, 30 * time.Second
	// leaveTimeout is within the grace period of a pod, 30 s.
	leaveTimeout = 10 * time.Second
	binaryMode   = 0o755
	// withoutWatch is the interval where files cannot be watched.
	withoutWatch = 2 * time.Second
)

// Config of an Installer. Paths are as the daemon sees them.
type Config struct {
	// NetDir holds network configurations, default /host/etc/cni/net.d.
	NetDir string
	// BinDir holds plugins, default /host/opt/cni/bin.
	BinDir string
	// NodeNetDir is NetDir as the node sees it, default /etc/cni/net.d.
	NodeNetDir string
	// Binary to install, default the running one.
	Binary string
	// LogFile of the plugin on the node, default /var/log/tombolo-cni/cni.log.
	LogFile string
	// LogDir is the folder of LogFile for Uninstall to remove it, default none.
	LogDir string
	// ExcludeNamespaces need no question to the API server, default kube-system.
	ExcludeNamespaces []string
	// ServiceAccount is the folder with token and ca.crt, default that of a pod.
	// Where there is none, no kubeconfig is written.
	ServiceAccount string
	// APIServer is its URL, default that of a pod's environment.
	APIServer string
	// DaemonSet is the daemon's own, <namespace>/<name>: when it goes, the plugin
	// goes with it. Empty: only Uninstall removes the plugin.
	DaemonSet string
	// ReadyAddress answers GET /ready, default none.
	ReadyAddress string
	// Interval at which all is looked at although nothing happened, default 30 s.
	Interval time.Duration
	// Log, default discards.
	Log *slog.Logger
}

// Installer keeps the plugin chained on a node.
type Installer struct {
	cfg Config

	mu    sync.Mutex
	state error // of the last look; nil: chained

	mayRead atomic.Bool // the daemon could read its DaemonSet once
	copied  os.FileInfo // of the binary as installed; of the one goroutine that looks
}

// New returns an Installer, which does nothing before Run.
func New(c Config) (*Installer, error) {
	def := func(v *string, or string) {
		if *v == "" {
			*v = or
		}
	}
	def(&c.NetDir, "/host/etc/cni/net.d")
	def(&c.BinDir, "/host/opt/cni/bin")
	def(&c.NodeNetDir, "/etc/cni/net.d")
	def(&c.LogFile, "/var/log/tombolo-cni/cni.log")
	def(&c.ServiceAccount, "/var/run/secrets/kubernetes.io/serviceaccount")
	if c.APIServer == "" && os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		c.APIServer = "https://" + net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	}
	if c.ExcludeNamespaces == nil {
		c.ExcludeNamespaces = []string{"kube-system"}
	}
	if c.Binary == "" {
		path, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("cni: own binary: %w", err)
		}
		c.Binary = path
	}
	if c.DaemonSet != "" && strings.Count(c.DaemonSet, "/") != 1 {
		return nil, fmt.Errorf("cni: daemonset %q must be <namespace>/<name>", c.DaemonSet)
	}
	if c.Interval == 0 {
		c.Interval = 30 * time.Second
	}
	if c.Interval < time.Second {
		return nil, fmt.Errorf("cni: interval %s must be at least 1s", c.Interval)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Installer{cfg: c, state: errors.New("starting")}, nil
}

// Run keeps the plugin installed until ctx ends. What it did stays, so that a
// restart or an upgrade of the daemon leaves no gap, unless its DaemonSet is
// gone then: that was an uninstallation, and it removes the plugin.
func (i *Installer) Run(ctx context.Context) error {
	for _, dir := range []string{i.cfg.NetDir, i.cfg.BinDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cni: %w", err)
		}
	}
	// Watching comes first: what happens after the first look is seen.
	events, interval := make(<-chan fsnotify.Event), i.cfg.Interval
	if watcher, err := watch(i.cfg.NetDir, i.cfg.BinDir); err == nil {
		defer watcher.Close()
		events = watcher.Events
		// Whatever it may have missed is seen at the next interval.
		go discard(watcher.Errors)
	} else {
		// A busy node runs out of inotify instances.
		interval = min(interval, withoutWatch)
		i.cfg.Log.Warn("files cannot be watched: looking at them often instead", "error", err, "interval", interval.String())
	}
	g, gctx := errgroup.WithContext(ctx)
	if i.cfg.ReadyAddress != "" {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", i.cfg.ReadyAddress)
		if err != nil {
			return fmt.Errorf("cni: %w", err)
		}
		server := &http.Server{Handler: i, ReadHeaderTimeout: 5 * time.Second}
		g.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		g.Go(func() error {
			<-gctx.Done()
			return server.Close()
		})
	}
	g.Go(func() error { return i.keep(gctx, events, interval) })
	err := g.Wait()
	if ctx.Err() == nil {
		return err
	}
	return i.leave()
}

// keep looks at everything after each change and at each interval.
func (i *Installer) keep(ctx context.Context, events <-chan fsnotify.Event, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	pause, last := pauseFirst, time.Time{}
	for {
		if i.look(ctx) {
			// Who undoes this at once finds an answer twice as late each time.
			if time.Since(last) > 10*pause {
				pause = pauseFirst
			}
			if !sleep(ctx, pause) {
				return nil
			}
			pause, last = min(2*pause, pauseMost), time.Now()
			drain(events)
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			if !sleep(ctx, settle) {
				return nil
			}
			drain(events)
		case <-tick.C:
		}
	}
}

func watch(dirs ...string) (*fsnotify.Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		if err := w.Add(dir); err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	return w, nil
}

// discard ends when the watcher is closed.
func discard(errs <-chan error) {
	for range errs {
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// drain drops events that a look is about to see the effect of.
func drain(events <-chan fsnotify.Event) {
	for {
		select {
		case <-events:
		default:
			return
		}
	}
}

// look installs what is missing and says whether it changed something.
func (i *Installer) look(ctx context.Context) bool {
	changed, err := i.install()
	i.mu.Lock()
	was := i.state
	i.state = err
	i.mu.Unlock()
	switch {
	case err != nil && (was == nil || was.Error() != err.Error()):
		i.cfg.Log.Warn("the plugin is not chained", "error", err)
	case err == nil && was != nil:
		i.cfg.Log.Info("ready")
	}
	if !i.mayRead.Load() && i.cfg.DaemonSet != "" {
		status, _, err := i.daemonSet(ctx)
		if i.mayRead.Store(status == http.StatusOK); status != http.StatusOK {
			i.cfg.Log.Warn("own DaemonSet cannot be read, so its removal will not remove the plugin", "error", err)
		}
	}
	return changed
}

// install puts binary, credentials and entry in place, in this order: what is
// chained can run.
func (i *Installer) install() (changed bool, _ error) {
	copied, err := i.copyBinary()
	if err != nil {
		return false, err
	}
	written, err := i.writeKubeconfig()
	if err != nil {
		return copied, err
	}
	entry := Entry{Type: Name, Capabilities: map[string]bool{capability: true}}
	entry.LogFile, entry.ExcludeNamespaces = i.cfg.LogFile, i.cfg.ExcludeNamespaces
	if exists(filepath.Join(i.cfg.NetDir, kubeconfigName)) {
		entry.Kubeconfig = filepath.Join(i.cfg.NodeNetDir, kubeconfigName)
	}
	data, err := json.Marshal(entry)
	if err != nil {
		return copied || written, err
	}
	path, chained, err := chain(i.cfg.NetDir, data)
	if chained {
		i.cfg.Log.Info("chained the plugin", "file", path)
	}
	return copied || written || chained, err
}

func (i *Installer) copyBinary() (bool, error) {
	path := filepath.Join(i.cfg.BinDir, Name)
	have, err := os.Stat(path)
	if err == nil && i.copied != nil && os.SameFile(have, i.copied) && have.Size() == i.copied.Size() &&
		have.ModTime().Equal(i.copied.ModTime()) && have.Mode() == i.copied.Mode() {
		return false, nil
	}
	content, err := os.ReadFile(i.cfg.Binary)
	if err != nil {
		return false, fmt.Errorf("binary: %w", err)
	}
	same := have != nil && have.Mode().Perm() == binaryMode && have.Size() == int64(len(content))
	if same {
		installed, err := os.ReadFile(path)
		same = err == nil && bytes.Equal(installed, content)
	}
	if !same {
		// Not like the file that is there: its mode may be what is wrong.
		if err := replace(path, "", content, binaryMode); err != nil {
			return false, fmt.Errorf("binary: %w", err)
		}
		i.cfg.Log.Info("installed the plugin", "file", path)
	}
	i.copied, err = os.Stat(path)
	return !same, err
}

func (i *Installer) writeKubeconfig() (bool, error) {
	ca, token, err := i.serviceAccount()
	if errors.Is(err, os.ErrNotExist) || i.cfg.APIServer == "" {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("service account: %w", err)
	}
	want, err := json.MarshalIndent(newKubeconfig(i.cfg.APIServer, ca, token), "", "  ")
	if err != nil {
		return false, err
	}
	path := filepath.Join(i.cfg.NetDir, kubeconfigName)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
		return false, nil
	}
	return true, replace(path, "", want, 0o600)
}

func (i *Installer) serviceAccount() (ca []byte, token string, _ error) {
	ca, err := os.ReadFile(filepath.Join(i.cfg.ServiceAccount, "ca.crt"))
	if err != nil {
		return nil, "", err
	}
	t, err := os.ReadFile(filepath.Join(i.cfg.ServiceAccount, "token"))
	return ca, strings.TrimSpace(string(t)), err
}

// daemonSet asks for the daemon's own DaemonSet.
func (i *Installer) daemonSet(ctx context.Context) (status int, going bool, _ error) {
	ca, token, err := i.serviceAccount()
	if err != nil {
		return 0, false, err
	}
	client, err := newAPI(i.cfg.APIServer, ca, token)
	if err != nil {
		return 0, false, err
	}
	namespace, name, _ := strings.Cut(i.cfg.DaemonSet, "/")
	var found metadata
	status, err = client.get(ctx, "/apis/apps/v1/namespaces/"+url.PathEscape(namespace)+"/daemonsets/"+url.PathEscape(name), &found)
	return status, found.Metadata.DeletionTimestamp != "", err
}

// leave removes the plugin if the DaemonSet is gone, and else nothing.
func (i *Installer) leave() error {
	if i.cfg.DaemonSet == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	for {
		status, going, err := i.daemonSet(ctx)
		switch {
		case status == http.StatusOK && !going:
			i.cfg.Log.Info("the plugin stays: this is a restart")
			return nil
		case status == http.StatusOK, status == http.StatusNotFound,
			// An uninstallation takes the rights away at about the same time.
			i.mayRead.Load() && (status == http.StatusForbidden || status == http.StatusUnauthorized):
			i.cfg.Log.Info("the DaemonSet is gone: removing the plugin", "status", status)
			return Uninstall(i.cfg)
		}
		if !sleep(ctx, time.Second) {
			i.cfg.Log.Warn("the plugin stays: whether the DaemonSet is gone is unknown", "error", err)
			return nil
		}
	}
}

// Uninstall takes the plugin out of every network configuration and removes its
// files. Pods that run keep their rules.
func Uninstall(c Config) error {
	i, err := New(c)
	if err != nil {
		return err
	}
	errs := []error{unchain(i.cfg.NetDir)}
	if errs[0] != nil {
		// A chained plugin without its binary would keep every pod from starting.
		return errs[0]
	}
	files := []string{filepath.Join(i.cfg.NetDir, kubeconfigName), filepath.Join(i.cfg.BinDir, Name)}
	if c.LogDir != "" {
		base := filepath.Join(c.LogDir, filepath.Base(i.cfg.LogFile))
		files = append(files, base, base+".1")
	}
	for _, path := range files {
		if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Ready says why the plugin is not chained; nil when it is.
func (i *Installer) Ready() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.state
}

// ServeHTTP answers GET /ready.
func (i *Installer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/ready" {
		http.NotFound(w, r)
		return
	}
	if err := i.Ready(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}
