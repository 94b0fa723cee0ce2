package universal

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

const (
	maxManifest = 256 << 10
	maxInstance = 64
	maxVersion  = 128
	// unknownHealth says that the agent has not probed anything yet: nothing is ready.
	unknownHealth = "*"
)

// admit turns a registration into a proxy: its manifest is valid, and the token
// is for it.
func (s *Server) admit(c token.Claims, r *agentv1.Register) (Proxy, error) {
	invalid := func(format string, args ...any) (Proxy, error) {
		return Proxy{}, status.Error(codes.InvalidArgument, fmt.Sprintf(format, args...))
	}
	switch {
	case len(r.Dataplane) > maxManifest:
		return invalid("dataplane has %d bytes, at most %d are allowed", len(r.Dataplane), maxManifest)
	case r.Instance == "" || len(r.Instance) > maxInstance:
		return invalid("instance must have 1 to %d bytes", maxInstance)
	case len(r.AgentVersion) > maxVersion || len(r.EnvoyVersion) > maxVersion:
		return invalid("versions must have at most %d bytes", maxVersion)
	case r.Capabilities < capabilities:
		return invalid("capabilities must be %d or more, not %d", capabilities, r.Capabilities)
	}
	m, err := mesh.DecodeManifest(r.Dataplane, maxManifest, mesh.Key{Kind: mesh.KindDataplane})
	if err != nil {
		return invalid("dataplane: %v", err)
	}
	m.Resource.Zone = s.cfg.Zone
	if problems := m.Validate(); len(problems) > 0 {
		return invalid("dataplane has %d problems:\n%s", len(problems), problems.Error())
	}
	spec, ok := m.Decoded.(*mesh.Dataplane)
	if !ok {
		return invalid("dataplane: must be of type Dataplane")
	}
	labels, problems := mesh.ComputeLabels(m.Resource, spec, mesh.EnvUniversal)
	if len(problems) > 0 {
		return invalid("dataplane has %d problems:\n%s", len(problems), problems.Error())
	}
	m.Resource.Labels = labels
	if err := bound(c, m.Resource); err != nil {
		return Proxy{}, err
	}
	watched := probed(spec)
	return Proxy{
		Resource: m.Resource, Spec: spec, Instance: r.Instance,
		AgentVersion: r.AgentVersion, EnvoyVersion: r.EnvoyVersion, NotReady: notReady(r.NotReady, watched), Named: c.Name != "",
	}, nil
}

// bound checks that a token is for this very proxy. The label workload decides
// the identity, so a token that names none lets in a proxy that has none, or one
// that is named like its workload.
func bound(c token.Claims, r mesh.Resource) error {
	var wrong []string
	if c.Mesh != r.Mesh {
		wrong = append(wrong, fmt.Sprintf("mesh %q, not %q", c.Mesh, r.Mesh))
	}
	if c.Name != "" && c.Name != r.Name {
		wrong = append(wrong, fmt.Sprintf("name %q, not %q", c.Name, r.Name))
	}
	switch have := r.Labels[mesh.LabelWorkload]; {
	case c.Workload != "" && c.Workload != have:
		wrong = append(wrong, fmt.Sprintf("workload %q, not %q (label %s)", c.Workload, have, mesh.LabelWorkload))
	case c.Workload == "" && have != "" && have != c.Name:
		wrong = append(wrong, fmt.Sprintf("no workload, not %q (label %s): it needs a token with that workload", have, mesh.LabelWorkload))
	}
	if len(wrong) > 0 {
		return status.Errorf(codes.PermissionDenied, "token is for %s", strings.Join(wrong, "; for "))
	}
	return nil
}

// notReady keeps the names that are inbounds of the proxy, sorted.
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
