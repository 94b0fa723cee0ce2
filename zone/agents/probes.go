package agents

import (
	"maps"
	"slices"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

// ProbesOf are the ports of a Dataplane that its agent shall watch: every inbound that is not
// ignored, by connecting to the application.
func ProbesOf(d *mesh.Dataplane) []*agentv1.Probe {
	var out []*agentv1.Probe
	for i := range d.Networking.Inbound {
		in := &d.Networking.Inbound[i]
		if in.State == mesh.StateIgnored {
			continue
		}
		address, port := d.Networking.Application(in)
		p := &agentv1.Probe{Inbound: in.SectionName(), Address: address, Port: port,
			IntervalMillis: 250, TimeoutMillis: 200, UnhealthyThreshold: 1, HealthyThreshold: 1}
		if sp := in.ServiceProbe; sp != nil {
			p.IntervalMillis, p.TimeoutMillis = millis(sp.Interval, time.Second), millis(sp.Timeout, 500*time.Millisecond)
			p.UnhealthyThreshold, p.HealthyThreshold = orOne(sp.UnhealthyThreshold), orOne(sp.HealthyThreshold)
		}
		out = append(out, p)
	}
	return out
}

func millis(d *mesh.Duration, def time.Duration) uint32 {
	if d != nil {
		def = d.Duration
	}
	return uint32(min(max(def, time.Millisecond), time.Hour) / time.Millisecond)
}

func orOne(n *uint32) uint32 {
	if n == nil {
		return 1
	}
	return max(1, *n)
}

// probed are the names of the inbounds that the agent watches.
func probed(probes []*agentv1.Probe) map[string]bool {
	out := map[string]bool{}
	for _, p := range probes {
		out[p.Inbound] = true
	}
	return out
}

// notReady keeps the names that are watched inbounds of the proxy, sorted.
func notReady(names []string, watched map[string]bool) []string {
	out := map[string]bool{}
	for _, name := range names {
		if name == unknownHealth {
			return slices.Sorted(maps.Keys(watched))
		}
		if watched[name] {
			out[name] = true
		}
	}
	return slices.Sorted(maps.Keys(out))
}
