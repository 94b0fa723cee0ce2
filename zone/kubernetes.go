package zone

import (
	"context"
	"net/netip"

	"golang.org/x/sync/errgroup"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/agents"
	"github.com/tombolo-mesh/tombolo/zone/disk"
	"github.com/tombolo-mesh/tombolo/zone/kube/host"
)

// Kubernetes is the configuration of a cluster's zone.
type Kubernetes struct {
	// Kubeconfig is a file, Context one of its contexts; empty: the service account
	// of the pod that this runs in.
	Kubeconfig, Context string
	// Namespace of the control plane, default "tombolo-system".
	Namespace string
	// Instance names this process, different for each; default the host's name and
	// process id.
	Instance string
	// PodIP is the address of this instance, to which the Envoys of its agents connect:
	// through the Service they could reach another one. Empty: where their agent dialled.
	PodIP string
	// Injection is a file that says what injected pods get; empty: none is injected.
	Injection string
	// Webhooks is the address of the webhooks, default ":5443"; "none" for none.
	Webhooks string
}

// openCluster waits for what the cluster holds for the zone.
func (z *Zone) openCluster(ctx context.Context, g *errgroup.Group) (*home, error) {
	k := z.cfg.Kubernetes
	var vips []netip.Prefix
	for _, p := range []netip.Prefix{z.cfg.VIPs.Service, z.cfg.VIPs.MultiZone, z.cfg.VIPs.IPv6} {
		if p.IsValid() {
			vips = append(vips, p)
		}
	}
	c, err := host.Open(ctx, g, host.Config{Zone: z.cfg.Name, Kubeconfig: k.Kubeconfig, Context: k.Context, Namespace: k.Namespace, Instance: k.Instance,
		Names: z.cfg.Names, Injection: k.Injection, Webhooks: k.Webhooks, VIPs: vips, Log: z.log, Registerer: z.registry})
	if err != nil {
		return nil, err
	}
	return &home{
		env: mesh.EnvKubernetes, store: c.Store(), tls: c.TLS(), ready: c.Ready(), close: func() {}, ca: "Secret tombolo-webhook-certs",
		attach: func(p *parts) agents.Admitter {
			return c.Attach(&hosted{sink: sink{p.engine}, view: view{p.engine}, parts: p})
		},
		follower: func() bool { return !c.Leads() },
		run:      func(ctx context.Context, _ *engine) error { return c.Run(ctx) },
	}, nil
}

// hosted is the zone as its cluster sees it.
type hosted struct {
	sink
	view
	parts *parts
}

var _ host.Engine = (*hosted)(nil)

// Adopt implements host.Engine.
func (h *hosted) Adopt(u disk.Update) {
	// An error says that the zone is stopping.
	_ = h.e.post(nil, &op{run: func(b *batch) { h.e.adopt(b, u) }})
}

// Leads implements host.Engine: who leads tells global of the zone.
func (h *hosted) Leads(bool) {
	if h.parts.client != nil {
		h.parts.client.Rejoin()
	}
}
