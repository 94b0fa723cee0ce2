package agent

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

func TestRefusedExtensions(t *testing.T) {
	const text = `extension_config_discovery.http_filter.rbac_http.update_rejected: 2
extension_config_discovery.http_filter.rbac_http.update_success: 0
extension_config_discovery.http_filter.rbac_kept.update_rejected: 1
extension_config_discovery.http_filter.rbac_kept.update_success: 3
extension_config_discovery.http_filter.rbac_a.b.update_rejected: 1
extension_config_discovery.http_filter.rbac_fine.update_rejected: 0
extension_config_discovery.network_filter.self_inbound_dp_lines.update_rejected: 1
extension_config_discovery.network_filter.kri_msvc_default_east__api_90.update_rejected: 1
extension_config_discovery.network_filter.kri_msvc_default_east__api_90.update_success: 0
extension_config_discovery.
extension_config_discovery.x
nonsense
`
	got, err := refusedExtensions(strings.NewReader(text))
	if want := []string{"rbac_a.b", "rbac_http", "self_inbound_dp_lines"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if _, err := refusedExtensions(strings.NewReader(strings.Repeat("x", 1<<20))); err == nil {
		t.Error("what cannot be read passes for fine")
	}
}

// Nobody is sent to an Envoy before it has what it takes calls with; from then on
// everybody is, whatever it refuses.
func TestCallable(t *testing.T) {
	var stats atomic.Value
	socket := filepath.Join(t.TempDir(), "a")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(stats.Load().(string))) })}}
	server.Start()
	t.Cleanup(server.Close)
	a := newAdmin(socket)
	const refused = "extension_config_discovery.http_filter.rbac_http.update_rejected: 1\n"
	stats.Store(refused)
	if err := a.callable(t.Context()); err == nil || !strings.Contains(err.Error(), "refuses rbac_http") {
		t.Errorf("it is refused: %v", err)
	}
	stats.Store(refused + "extension_config_discovery.http_filter.rbac_http.update_success: 1\n")
	if err := a.callable(t.Context()); err != nil {
		t.Errorf("another one is taken: %v", err)
	}
	stats.Store(refused)
	if err := a.callable(t.Context()); err != nil {
		t.Errorf("once it is called: %v", err)
	}
	a.began()
	if err := a.callable(t.Context()); err == nil {
		t.Error("another Envoy has nothing from before")
	}
}
