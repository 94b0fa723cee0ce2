package kube

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
)

// maxClaims bounds the addresses that a pod may tell of itself.
const maxClaims = 4

// claim takes the addresses that a pod's agent tells, until the API server has
// them: kubelets report them up to a second after the sidecar has started. They
// make the pod's own proxy; nobody else is sent to a pod that is not ready, and
// no service gets them.
func (p *Platform) claim(who podCredential, ips []string) error {
	addresses, err := claimed(ips)
	if err != nil || len(addresses) == 0 {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	ns := p.model.namespaces[who.namespace]
	if ns == nil {
		return nil
	}
	x := ns.pods[who.name]
	if x == nil || x.own == nil || string(x.own.UID) != who.uid || len(x.own.IPs) > 0 {
		return nil // not seen yet, another one, or known by now
	}
	next := *x.own
	next.IPs, next.Claimed = addresses, true
	x.own = &next
	p.model.dirtyPods[x] = true
	p.ring()
	return nil
}

func claimed(ips []string) ([]string, error) {
	if len(ips) > maxClaims {
		return nil, fmt.Errorf("pod_ips has %d addresses, at most %d are allowed", len(ips), maxClaims)
	}
	var out []string
	for i, text := range ips {
		ip, err := netip.ParseAddr(text)
		if err != nil || ip.Zone() != "" || ip.IsUnspecified() || ip.IsLoopback() || ip.IsMulticast() || ip.IsLinkLocalUnicast() {
			return nil, fmt.Errorf("pod_ips[%d]: %.60q is no address of a pod", i, text)
		}
		if s := ip.Unmap().String(); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out, nil
}

// keepClaim lets a pod keep what its agent told while the API server has no
// address of it yet.
func keepClaim(c cluster.Change[*Pod], before *Pod) *Pod {
	if c.New == nil || before == nil || !before.Claimed || c.New.UID != before.UID || len(c.New.IPs) > 0 {
		return c.New
	}
	next := *c.New
	next.IPs, next.Claimed = before.IPs, true
	return &next
}
