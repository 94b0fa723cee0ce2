package kube

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
)

// vms is the zone of virtual machines: a control plane, an ingress, the service
// backend and the caller web, each on a host of its own on the clusters' network.
type vms struct {
	cp, ingress, backend, web *lab.Host
	token                     map[string]string // by workload
	procs                     []*lab.Process
}

// The addresses at which web of the VM zone has its outbounds, all on 127.0.0.1.
const (
	vmsToEast     = "18081" // backend of namespace demo in east, HTTP
	vmsToWest     = "18082" // the same in west
	vmsToEastTCP  = "18083" // its TCP port
	vmsToEastGRPC = "18084" // its gRPC port
)

// startVMs starts the zone and waits for nothing: what the others see of it counts.
func (f *fleet) startVMs(t *testing.T) {
	t.Helper()
	v := &vms{token: map[string]string{}}
	f.vms = v
	for _, h := range []struct {
		host **lab.Host
		name string
	}{{&v.cp, "vms-cp"}, {&v.ingress, "vms-ingress"}, {&v.backend, "vms-backend"}, {&v.web, "vms-web"}} {
		var err error
		*h.host, err = f.lab.AddHost(h.name)
		must(t, err)
	}
	t.Cleanup(func() {
		for _, p := range v.procs {
			p.Kill()
		}
	})
	token := f.token(t, "vms", "zone", "--zone", "vms")
	cp := f.run(t, v.cp, "zone-vms", filepath.Join(f.bin, "tombolo"), "zone", "--name", "vms", "--data-dir", f.path("zone-vms"),
		"--global", f.hub.IP+":"+syncPort, "--global-ca", f.path("global", "ca.pem"), "--token-file", token,
		"--listen", v.cp.IP+":5678", "--metrics-address", v.cp.IP+":5680")
	listens(t, v.cp, cp, v.cp.IP+":5678")
	for _, workload := range []string{"ingress", "backend", "web"} {
		v.token[workload] = f.token(t, "vms-"+workload, "dataplane", "--mesh", "default", "--workload", workload)
	}
	f.agent(t, "gateway", v.ingress, "ingress", "  listeners: [{type: ZoneIngress, name: ingress, port: 10001}]\n")
	f.run(t, v.backend, "app-backend", filepath.Join(f.images, "echo"), "serve", "--service", "backend", "--zone", "vms", "--instance", "vms-backend", "--linger", "0s",
		"--http", "127.0.0.1:8080", "--grpc", "127.0.0.1:9090", "--tcp", "127.0.0.1:7070")
	f.agent(t, "sidecar", v.backend, "backend", `  inbound:
    - {name: http, port: 80, servicePort: 8080, serviceAddress: 127.0.0.1, protocol: http}
    - {name: grpc, port: 9090, serviceAddress: 127.0.0.1, protocol: grpc}
    - {name: tcp, port: 7070, serviceAddress: 127.0.0.1, protocol: tcp}
`)
	f.run(t, v.web, "app-web", filepath.Join(f.images, "echo"), "serve", "--service", "web", "--zone", "vms", "--instance", "vms-web", "--linger", "0s",
		"--http", "127.0.0.1:8080", "--grpc", "127.0.0.1:9090", "--tcp", "127.0.0.1:7070")
	outbounds := "  outbound:\n"
	for _, o := range []struct{ port, zone, service string }{
		{vmsToEast, "east", "80"}, {vmsToWest, "west", "80"}, {vmsToEastTCP, "east", "7070"}, {vmsToEastGRPC, "east", "9090"}} {
		outbounds += fmt.Sprintf("    - {address: 127.0.0.1, port: %s, backendRef: {kind: MeshService, labels: {tombolo.io/display-name: backend, k8s.tombolo.io/namespace: %s, tombolo.io/zone: %s}, port: %s}}\n",
			o.port, demo, o.zone, o.service)
	}
	f.agent(t, "sidecar", v.web, "web", outbounds)
}

// run starts a process of the VM zone.
func (f *fleet) run(t *testing.T, h *lab.Host, name, program string, args ...string) *lab.Process {
	t.Helper()
	p, err := h.Start(f.dir, name, nil, program, args...)
	must(t, err)
	f.vms.procs = append(f.vms.procs, p)
	return p
}

// agent starts a workload's agent with the rest of its Dataplane's networking.
func (f *fleet) agent(t *testing.T, mode string, h *lab.Host, workload, networking string) {
	t.Helper()
	file := f.path("vms-" + workload + ".yaml")
	must(t, os.WriteFile(file, []byte(fmt.Sprintf(`type: Dataplane
mesh: default
name: vms-%s
labels: {tombolo.io/workload: %s}
networking:
  address: %s
%s`, workload, workload, h.IP, networking)), 0o644))
	f.run(t, h, "agent-"+workload, filepath.Join(f.bin, "tombolo-agent"), mode, "-d", file, "--token-file", f.vms.token[workload],
		"--zone-address", f.vms.cp.IP+":5678", "--zone-ca", f.path("zone-vms", "zone-ca.pem"),
		"--envoy", f.envoy, "--work-dir", filepath.Join(f.lab.State, "vms-"+workload), "--concurrency", "1")
}
