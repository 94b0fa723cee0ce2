package universal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
	"github.com/tombolo-mesh/tombolo/zone/agents"
)

const maxManifest = 256 << 10

// Admitter lets in agents with a dataplane token that is for the Dataplane that
// they bring. It implements agents.Admitter.
type Admitter struct {
	// Zone is the name of this zone.
	Zone string
	// Verifier has the keys and revocations of a mesh's dataplane tokens; nil when
	// the mesh is not known here.
	Verifier func(mesh string) *token.Verifier
	// Now is the time that tokens are checked against; nil is time.Now.
	Now func() time.Time
}

var _ agents.Admitter = Admitter{}

func (a Admitter) now() time.Time {
	if a.Now == nil {
		return time.Now()
	}
	return a.Now()
}

// credential is a token that was good.
type credential struct {
	raw    string
	claims token.Claims
}

// Authenticate implements agents.Admitter.
func (a Admitter) Authenticate(_ context.Context, raw string) (agents.Credential, error) {
	name := token.MeshOf(raw)
	verifier := a.Verifier(name)
	if name == "" || verifier == nil || verifier.Empty() {
		// Without keys there is nothing to say of the token itself, but of its use.
		if _, err := token.NewVerifier(nil, nil).Verify(raw, token.Dataplane, a.now()); err != nil && !errors.Is(err, token.ErrUnknownKey) {
			return nil, status.Error(codes.Unauthenticated, err.Error())
		}
		return nil, status.Errorf(codes.Unauthenticated, "mesh %.63q has no keys in zone %s: it does not exist, or has not arrived yet", name, a.Zone)
	}
	c, err := verifier.Verify(raw, token.Dataplane, a.now())
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	if c.Zone != "" && c.Zone != a.Zone {
		return nil, status.Errorf(codes.PermissionDenied, "token is for zone %.63q, this is zone %s", c.Zone, a.Zone)
	}
	return credential{raw: raw, claims: c}, nil
}

// Recheck implements agents.Admitter. Bad is a token that was revoked, or whose
// key was taken away while others are there. That a token expired meanwhile ends
// nothing, and neither does a mesh without any key: absence of what says who may
// come is no word against those who are in.
func (a Admitter) Recheck(c agents.Credential) error {
	have, ok := c.(credential)
	if !ok {
		return nil
	}
	verifier := a.Verifier(have.claims.Mesh)
	if verifier == nil || verifier.Empty() {
		return nil
	}
	// As of when it was issued: expiry shall not hide what else is wrong.
	if _, err := verifier.Verify(have.raw, token.Dataplane, have.claims.Issued); err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	return nil
}

// Admit implements agents.Admitter: the manifest is valid, and the token is for it.
func (a Admitter) Admit(_ context.Context, c agents.Credential, r *agentv1.Register) (agents.Proxy, error) {
	invalid := func(format string, args ...any) (agents.Proxy, error) {
		return agents.Proxy{}, status.Errorf(codes.InvalidArgument, format, args...)
	}
	have, ok := c.(credential)
	if !ok {
		return agents.Proxy{}, status.Error(codes.Unauthenticated, "a dataplane token is required")
	}
	if len(r.Dataplane) > maxManifest {
		return invalid("dataplane has %d bytes, at most %d are allowed", len(r.Dataplane), maxManifest)
	}
	m, err := mesh.DecodeManifest(r.Dataplane, maxManifest, mesh.Key{Kind: mesh.KindDataplane})
	if err != nil {
		return invalid("dataplane: %v", err)
	}
	m.Resource.Zone = a.Zone
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
	if err := bound(have.claims, m.Resource); err != nil {
		return agents.Proxy{}, err
	}
	return agents.Proxy{Resource: m.Resource, Spec: spec, Probes: agents.ProbesOf(spec), Named: have.claims.Name != ""}, nil
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
