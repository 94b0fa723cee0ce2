package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
)

// A write that lets callers in who were refused is a write like any other, but it
// is said. Who gets in is what the zones find, asked before the write; what they
// cannot say in time is said as well.

// consent is what a client says about such writes, in the parameter "weakening".
type consent string

const (
	// consentWarn: write, and say it in the warnings. The default.
	consentWarn consent = "warn"
	// consentRefuse: say it, and write nothing.
	consentRefuse consent = "refuse"
	// consentAccept: write, and ask no zone.
	consentAccept consent = "accept"
)

const (
	// weakeningTime is how long a write waits for what zones say.
	weakeningTime = 2 * time.Second
	// maxWeakenings bounds what is said of one write.
	maxWeakenings = 20
	// WeakensType is the type of the problem that refuses such a write; every
	// invalid parameter of it is one who would get in.
	WeakensType = "/problems/weakens"
)

func weakeningParameter() parameter {
	return parameter{"weakening", "what to do when the write lets callers in that are refused now: warn (default) writes and says so, refuse says so and writes nothing, accept writes without asking the zones", "string"}
}

func (r *request) consent() (consent, error) {
	switch c := consent(r.URL.Query().Get("weakening")); c {
	case "":
		return consentWarn, nil
	case consentWarn, consentRefuse, consentAccept:
		return c, nil
	default:
		return "", invalidField(http.StatusBadRequest, "weakening", "must be warn, refuse or accept, not %q", clip(string(c)))
	}
}

// weakens says whom writes let in, as warnings; when that is to be refused it is
// the problem.
func (s *Server) weakens(ctx context.Context, ops []store.Op, c consent) ([]string, error) {
	if c == consentAccept {
		return nil, nil
	}
	may, err := s.mayWeaken(ctx, ops)
	if err != nil || !may {
		return nil, err
	}
	p, err := s.preview(ctx, ops, previewOptions{timeout: weakeningTime})
	if err != nil {
		return nil, err
	}
	return s.saying(ctx, p, c)
}

// saying is what a preview says of whom writes let in.
func (s *Server) saying(ctx context.Context, p *Planned, c consent) ([]string, error) {
	var found []string
	for i := range p.Zones {
		found = append(found, weakenings(&p.Zones[i])...)
	}
	for _, u := range p.Unanswered {
		zone := u.Zone
		members, err := s.cfg.Store.List(ctx, store.Query{Kind: mesh.KindDataplane, Zone: &zone, Size: 1})
		if err != nil {
			return nil, err
		}
		if members.Total > 0 {
			found = append(found, fmt.Sprintf("zone %s cannot say whom this lets in: %s", u.Zone, u.Reason))
		}
	}
	if n := len(found); n > maxWeakenings {
		found = append(found[:maxWeakenings], fmt.Sprintf("and %d more", n-maxWeakenings))
	}
	if c == consentRefuse && len(found) > 0 {
		p := problem(http.StatusConflict, "the change lets callers in that are refused now, so nothing was written; weakening=accept writes it")
		p.Type, p.Title = WeakensType, "Weakens permissions"
		for _, text := range found {
			p.Invalid = append(p.Invalid, InvalidParameter{Field: "weakening", Reason: text})
		}
		return nil, p
	}
	return found, nil
}

// weakenings are the ways in that a change opens in a zone.
func weakenings(z *zonesync.Preview) []string {
	var out []string
	for _, e := range z.Effects {
		const most = 3
		names := make([]string, 0, most)
		for _, w := range e.Workloads[:min(most, len(e.Workloads))] {
			names = append(names, w.Name)
		}
		if n := len(e.Workloads) - most; n > 0 {
			names = append(names, fmt.Sprintf("%d more workloads", n))
		}
		of := fmt.Sprintf("%s of mesh %s in zone %s (%s)", strings.Join(names, ", "), e.Mesh, z.Zone, proxies(e.Proxies))
		for _, l := range e.Lines {
			if l.Weakens() {
				out = append(out, weakening(of, l))
			}
		}
	}
	return out
}

func proxies(n int) string {
	if n == 1 {
		return "1 proxy"
	}
	return fmt.Sprintf("%d proxies", n)
}

func weakening(of string, l effect.Line) string {
	var causes []string
	for _, c := range l.Causes {
		causes = append(causes, c.String())
	}
	by := ""
	if len(causes) > 0 {
		by = ": " + strings.Join(causes, ", ")
	}
	switch {
	case l.Area == effect.Permission && l.Sign == effect.Removed:
		return fmt.Sprintf("%s can be called by %s at %s, since a deny is gone%s", of, l.Who, strings.Join(l.At, ", "), by)
	case l.Area == effect.Permission:
		return fmt.Sprintf("%s can be called by %s at %s%s", of, l.Who, strings.Join(l.At, ", "), by)
	}
	return fmt.Sprintf("%s: %s%s", of, l.Text, by)
}

// mayWeaken tells from the resources alone whether writes could let anybody in, so
// that all others need not wait for zones.
func (s *Server) mayWeaken(ctx context.Context, ops []store.Op) (bool, error) {
	for _, op := range ops {
		switch op.Resource.Kind {
		case mesh.KindMeshTrafficPermission, mesh.KindMeshIdentity, mesh.KindMeshTrust:
		default:
			continue
		}
		old, err := s.cfg.Store.Get(ctx, op.Resource.Key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return false, err
		}
		before, after := &old, &op.Resource
		if err != nil {
			before = nil
		}
		if op.Delete {
			after = nil
		}
		if opens(op.Resource.Kind, before, after) {
			return true, nil
		}
	}
	return false, nil
}

// opens reports whether the way from one resource to another, or from or to none,
// could let anybody in.
func opens(kind mesh.KindName, old, next *mesh.Resource) bool {
	if old == nil && next == nil || old != nil && next != nil && maps.Equal(old.Labels, next.Labels) && sameJSON(old.Spec, next.Spec) {
		return false
	}
	switch kind {
	case mesh.KindMeshTrust:
		return next != nil // without an authority fewer are believed
	case mesh.KindMeshTrafficPermission:
	default:
		return true
	}
	before, ok1 := permissionOf(old)
	after, ok2 := permissionOf(next)
	if !ok1 || !ok2 {
		return true
	}
	if old != nil && next != nil && (!maps.Equal(old.Labels, next.Labels) || before.target != after.target) {
		return len(before.deny)+len(after.allow) > 0
	}
	more := func(a, b map[string]bool) bool { // a has what b has not
		return slices.ContainsFunc(slices.Collect(maps.Keys(a)), func(m string) bool { return !b[m] })
	}
	return more(after.allow, before.allow) || more(before.deny, after.deny)
}

// permissionLists are the matches of a permission, as text.
type permissionLists struct {
	target      string
	allow, deny map[string]bool
}

func permissionOf(r *mesh.Resource) (permissionLists, bool) {
	out := permissionLists{allow: map[string]bool{}, deny: map[string]bool{}}
	if r == nil {
		return out, true
	}
	spec, err := mesh.DecodeSpec(r.Kind, r.Spec)
	p, ok := spec.(*mesh.MeshTrafficPermission)
	if err != nil || !ok {
		return out, false
	}
	text := func(v any) string {
		b, err := json.Marshal(v)
		ok = ok && err == nil
		return string(b)
	}
	out.target = text(p.TargetRef)
	for _, rule := range p.Rules {
		for _, m := range rule.Default.Deny {
			out.deny[text(m)] = true
		}
		for _, m := range append(slices.Clone(rule.Default.Allow), rule.Default.AllowWithShadowDeny...) {
			out.allow[text(m)] = true
		}
	}
	return out, ok
}
