package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/agent/appprobe"
	"github.com/tombolo-mesh/tombolo/internal/ports"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

// podConfig is what the webhook says in a pod.
func podConfig(t *testing.T, z *fakeZone) Config {
	t.Helper()
	cfg := testConfig(t, z)
	pem, err := os.ReadFile(cfg.ZoneCA)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Kubernetes, cfg.Dataplane, cfg.ZoneCA, cfg.ZoneCAPEM = true, "", "", string(pem)
	cfg.ReadinessAddress = fmt.Sprintf("127.0.0.1:%d", ports.Free(t))
	cfg.PodIPs = []string{"127.0.0.1", "::1"}
	return cfg
}

// waitShortly gives up on a proxy that is not ready soon.
func waitShortly(t *testing.T, cfg Config) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	return Wait(ctx, cfg.ReadinessAddress)
}

func TestPod(t *testing.T) {
	z := newFakeZone(t)
	app := startApp(t, z, hello)
	cfg := podConfig(t, z)
	probes, err := json.Marshal(appprobe.Table{"web/liveness": {Type: appprobe.HTTP, Port: uint16(z.app), TimeoutSeconds: 1}})
	if err != nil {
		t.Fatal(err)
	}
	cfg.AppProbes, cfg.AppProbesAddress = string(probes), fmt.Sprintf("127.0.0.1:%d", ports.Free(t))
	drained := false
	z.onDrain = func() { drained = true }
	r := startConfigured(t, z, cfg)

	eventually(t, "the zone is away", func() bool { return r.log.count("zone is away") == 1 })
	eventually(t, "waiting for a proxy without a zone tells the reason", func() bool {
		err := waitShortly(t, cfg)
		if err == nil {
			t.Fatal("ready without a zone")
		}
		return strings.Contains(err.Error(), "zone "+z.address+" is away: Unavailable")
	})
	z.start()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := Wait(ctx, cfg.ReadinessAddress); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", z.inbound))
	if err != nil {
		t.Fatalf("Wait returned before Envoy took traffic: %v", err)
	}
	_ = c.Close()

	first := get(z, func() *agentv1.Register { return z.registers[0] })
	if len(first.Dataplane) > 0 || len(first.NotReady) > 0 {
		t.Errorf("registered with %q, not ready: %q; the zone knows the pod", first.Dataplane, first.NotReady)
	}
	if got := ask(t, cfg.AppProbesAddress); got != http.StatusOK {
		t.Errorf("probe of the application: %d", got)
	}
	app.Close()
	if got := ask(t, cfg.AppProbesAddress); got != http.StatusServiceUnavailable {
		t.Errorf("probe of an application that is gone: %d", got)
	}

	pid := r.envoyPID(t)
	r.stop()
	if err := r.result(t); err != nil {
		t.Errorf("the end: %v", err)
	}
	if alive(pid) {
		t.Error("Envoy outlives its agent")
	}
	eventually(t, "the zone sees a proper end", func() bool {
		return get(z, func() bool { return len(z.ends) == 1 && errors.Is(z.ends[0], io.EOF) })
	})
	if drained {
		t.Error("a sidecar whose application has ended was drained")
	}
}

func ask(t *testing.T, address string) int {
	t.Helper()
	response, err := http.Get("http://" + address + appprobe.Path("web", appprobe.Liveness, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}

// A zone that does not know a pod yet may refuse it; that is no reason to end.
func TestPodRefusedAtFirst(t *testing.T) {
	z := newFakeZone(t)
	startApp(t, z, hello)
	z.refuse = status.Error(codes.InvalidArgument, "no such pod yet")
	z.start()
	r := startConfigured(t, z, podConfig(t, z))
	eventually(t, "several attempts", func() bool { return get(z, func() bool { return len(z.registers) >= 3 }) })
	z.mu.Lock()
	z.refuse = nil
	z.mu.Unlock()
	eventually(t, "ready", func() bool { return r.log.count("msg=ready") == 1 })
}

func TestPodConfig(t *testing.T) {
	_, err := New(Config{Kubernetes: true, Dataplane: "dp.yaml", AppProbes: "{}", TokenFile: "token", ZoneAddress: "zone:5678"})
	for _, want := range []string{"dataplane is not for Kubernetes", "zone CA is required", "pod IPs are required"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}

// TestTerminating: while a pod ends, its proxy asks callers to go, and answers those
// who come all the same.
func TestTerminating(t *testing.T) {
	z := newFakeZone(t)
	startApp(t, z, hello)
	z.start()
	cfg := podConfig(t, z)
	startConfigured(t, z, cfg)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := Wait(ctx, cfg.ReadinessAddress); err != nil {
		t.Fatal(err)
	}
	keep := z.client()
	if _, closing, err := z.call(ctx, keep, "/"); err != nil || closing {
		t.Fatalf("before: closing %v, %v", closing, err)
	}
	if err := get(z, func() *fakeStream { return z.agent }).send(&agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Terminating{Terminating: &agentv1.Terminating{}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "callers are asked to go", func() bool {
		_, closing, err := z.call(ctx, keep, "/")
		if err != nil {
			t.Errorf("while terminating: %v", err)
		}
		return closing || err != nil
	})
	if _, _, err := z.call(ctx, z.client(), "/"); err != nil {
		t.Errorf("a new connection: %v", err)
	}
	if err := Wait(ctx, cfg.ReadinessAddress); err != nil {
		t.Errorf("ready no more: %v", err)
	}
}
