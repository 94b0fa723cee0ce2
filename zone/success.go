package zone

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
	wire "github.com/tombolo-mesh/tombolo/proto/zonesync"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/zone/agents"
)

// Bounds of what a question for the success of calls costs.
const (
	// maxCounting proxies are asked, and of one class maxCountingOfClass.
	maxCounting        = 64
	maxCountingOfClass = 8
	// countingAtOnce leaves room for people who inspect proxies meanwhile.
	countingAtOnce = 4
	// countingTime is how long one proxy has to answer, with at most maxCounters bytes.
	countingTime = 2 * time.Second
	maxCounters  = 4 << 20
	// maxCounted services of one proxy are told.
	maxCounted = 256
	// maxStatsPath is what an agent takes.
	maxStatsPath = 1024
)

// success answers how calls go that documents have a say in, as the Envoys of a
// sample of proxies count them.
func (i inspector) success(ctx context.Context, q wire.Question, w io.Writer) error {
	var asked wire.Success
	if err := json.Unmarshal(q.Body, &asked); err != nil {
		return fmt.Errorf("success: the question cannot be read: %w", err)
	}
	look := i.present
	if len(asked.Before) > 0 {
		look = i.foreseen
	}
	all, known, err := look(ctx, asked)
	if err != nil {
		return err
	}
	out := wire.SuccessCounts{Proxies: []wire.ProxyCounts{}}
	var reached []counting
	for _, c := range all {
		if c.scopes = scopes(c.proxy, asked.Documents, c.permitted(known, i.e.cfg.zone)); len(c.scopes) > 0 {
			out.Reached += c.connected
			reached = append(reached, c)
		}
	}
	count(ctx, sampled(reached), &out)
	return json.NewEncoder(w).Encode(out)
}

// present are the classes, and the permissions among the documents, as they are.
func (i inspector) present(ctx context.Context, asked wire.Success) (all []counting, known []mesh.PolicyResource, err error) {
	err = i.e.await(ctx.Done(), &op{looks: true, run: func(*batch) { all, known = i.e.counting(), i.e.permissionsOf(asked.Documents) }})
	return all, known, err
}

// foreseen are they as they will be, compiled beside the truth as for a plan, with the
// proxies that are there now.
func (i inspector) foreseen(ctx context.Context, asked wire.Success) (all []counting, known []mesh.PolicyResource, err error) {
	err = i.beside(ctx, func(f *engine) { f.foresee(asked.Before) }, func(f *engine) {
		all, known = f.counting(), f.permissionsOf(asked.Documents)
	})
	return all, known, err
}

// permissionsOf are the permissions among some documents.
func (e *engine) permissionsOf(documents []mesh.Key) (out []mesh.PolicyResource) {
	e.world.View(func(r ir.Reader) {
		for _, k := range documents {
			if o, ok := r.Get(k); ok && k.Kind == mesh.KindMeshTrafficPermission {
				out = append(out, mesh.PolicyResource(*o))
			}
		}
	})
	return out
}

// counting is a class with the proxies of it that may be asked.
type counting struct {
	class     *ir.Class
	proxy     *ir.Proxy
	connected int
	names     []string
	controls  []agents.Control
	scopes    []scope
}

// counting copies of the classes what is looked at beside the loop.
func (e *engine) counting() []counting {
	var out []counting
	for _, id := range slices.Sorted(maps.Keys(e.classes)) {
		c := e.classes[id]
		if c.proxy == nil {
			continue
		}
		one := counting{class: c.ir, proxy: c.proxy}
		for _, k := range sortedKeys(c.members) {
			p := c.members[k]
			if p.control == nil || !p.connected() {
				continue
			}
			if one.connected++; len(one.names) < maxCountingOfClass {
				one.names, one.controls = append(one.names, k.Name), append(one.controls, p.control)
			}
		}
		if one.connected > 0 {
			out = append(out, one)
		}
	}
	return out
}

// permitted says whether one of some permissions selects the class: one that allows
// nothing leaves no line behind.
func (c counting) permitted(known []mesh.PolicyResource, zone string) bool {
	return len(known) > 0 && slices.ContainsFunc(known, func(p mesh.PolicyResource) bool { return p.Mesh == c.class.Mesh }) &&
		len(mesh.SelectPolicies(mesh.KindMeshTrafficPermission, known, classMeta(c.class, zone))) > 0
}

// subject is one proxy to ask.
type subject struct {
	name    string
	control agents.Control
	scopes  []scope
}

// sampled takes the first proxy of every class, then the second, until there are
// enough: the same ones each time.
func sampled(classes []counting) []subject {
	var out []subject
	for n := range maxCountingOfClass {
		for _, c := range classes {
			if n < len(c.names) && len(out) < maxCounting {
				out = append(out, subject{c.names[n], c.controls[n], c.scopes})
			}
		}
	}
	return out
}

// scope is what Envoy counts of one service.
type scope struct {
	// prefix of the counters.
	prefix string
	kind   countKind
	// service for people.
	service string
}

// countKind says which counters of a scope are added up.
type countKind uint8

const (
	// requests that were answered, by their status.
	requests countKind = iota
	// connections that were tried.
	connections
	// calls of gRPC, by the status in their trailers: Envoy counts them by the cluster
	// that they were led to.
	calls
	// unled are calls of gRPC that were led nowhere, and answered by Envoy.
	unled
)

// scopes are the inbounds and outbounds of a proxy that documents have a say in.
// Callers count at their outbounds what reached them in the end, whatever was
// tried again on the way; servers at their inbounds.
func scopes(p *ir.Proxy, documents []mesh.Key, permitted bool) []scope {
	staged := func(s ir.Source) bool { return slices.Contains(documents, s.Key) }
	confs := func(list ir.Confs) bool {
		return slices.ContainsFunc(list, func(c ir.EffectiveConf) bool { return slices.ContainsFunc(c.Sources, staged) })
	}
	touched := map[string]bool{}
	for i := range p.Destinations {
		d := &p.Destinations[i]
		touched[d.Name] = confs(d.Confs) || slices.Contains(documents, d.Backend)
	}
	backends := func(list []ir.WeightedBackend) bool {
		return slices.ContainsFunc(list, func(b ir.WeightedBackend) bool { return touched[b.Destination] })
	}
	workload := p.Class.Labels[mesh.LabelWorkload]
	if workload == "" {
		workload = p.Class.ID
	}
	var out []scope
	seen := map[string]bool{}
	for i := range p.Outbounds {
		o := &p.Outbounds[i]
		mine := staged(o.Source) || confs(o.Confs) || backends(o.Backends) || touched[o.Name] ||
			slices.ContainsFunc(o.Routes, func(r ir.Route) bool { return staged(r.Source) || confs(r.Confs) || backends(r.Backends) })
		if !mine || seen[o.Name] {
			continue
		}
		seen[o.Name] = true
		to := effect.Place(o.Name) + " by " + workload
		if o.Protocol.IsHTTP() {
			out = append(out, scope{prefix: "http." + o.Name + ".", kind: requests, service: to})
			if o.Protocol == ir.GRPC {
				out = append(out, scope{prefix: "http." + o.Name + ".", kind: unled, service: to + inGRPC})
				for _, d := range led(o) {
					out = append(out, scope{prefix: "cluster." + d + ".grpc.", kind: calls, service: to + inGRPC})
				}
			}
			continue
		}
		for _, b := range o.Backends {
			if prefix := "cluster." + b.Destination + "."; b.Destination != "" && !seen[prefix] {
				seen[prefix] = true
				out = append(out, scope{prefix: prefix, kind: connections, service: to})
			}
		}
	}
	for i := range p.Inbounds {
		in := &p.Inbounds[i]
		mine := permitted || confs(in.Confs) || slices.ContainsFunc(in.Rules, func(m ir.MatchedConf) bool { return staged(m.Source) })
		for _, list := range [][]ir.PermissionMatch{in.Permission.Deny, in.Permission.AllowWithShadowDeny, in.Permission.Allow} {
			mine = mine || slices.ContainsFunc(list, func(m ir.PermissionMatch) bool { return staged(m.Source) })
		}
		if !mine {
			continue
		}
		name := xds.InboundName(in.Name)
		one := scope{prefix: "http." + name + ".", kind: requests, service: fmt.Sprintf("%s:%d", workload, in.Port)}
		if !in.Protocol.IsHTTP() {
			one.prefix, one.kind = "cluster."+name+".", connections
		}
		out = append(out, one)
		if in.Protocol == ir.GRPC {
			out = append(out, scope{prefix: "cluster." + name + ".grpc.", kind: calls, service: one.service + inGRPC})
		}
	}
	return out
}

// inGRPC tells what gRPC says of calls from what HTTP says of the same: 200.
const inGRPC = ", gRPC"

// led are the clusters that an outbound leads to.
func led(o *ir.Outbound) []string {
	var out []string
	for _, r := range o.Routes {
		for _, b := range r.Backends {
			if b.Destination != "" && !slices.Contains(out, b.Destination) {
				out = append(out, b.Destination)
			}
		}
	}
	return out
}

// Counters that are added up: of requests, of connections, and of calls of gRPC.
const (
	answeredPattern = `downstream_rq_[2-5]xx|rbac\.` + xds.PermissionStats + `\.denied`
	connectPattern  = `upstream_cx_total|upstream_cx_connect_fail`
	callsPattern    = `total|[0-9]+|no_cluster|no_route|rq_direct_response`
)

// failedCall says which status of gRPC is a failure of who was called, as 5xx is: UNKNOWN,
// DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS.
func failedCall(status string) bool {
	return slices.Contains([]string{"2", "4", "12", "13", "14", "15"}, status)
}

// statsPath asks an Envoy for the counters of scopes, as narrowly as fits.
func statsPath(list []scope) string {
	var names []string
	for _, s := range list {
		if name := regexp.QuoteMeta(strings.TrimSuffix(s.prefix, ".")); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	path := func(scopes string) string {
		return "/stats?usedonly&filter=" + url.QueryEscape(`^(`+scopes+`)\.(`+answeredPattern+`|`+connectPattern+`|`+callsPattern+`)$`)
	}
	if narrow := path(strings.Join(names, "|")); len(narrow) <= maxStatsPath {
		return narrow
	}
	return path(`(http|cluster)\..+`)
}

// count asks proxies, a few at once.
func count(ctx context.Context, list []subject, out *wire.SuccessCounts) {
	counts := make([]*wire.ProxyCounts, len(list))
	turns := make(chan struct{}, countingAtOnce)
	var all sync.WaitGroup
	for i, s := range list {
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			ctx, cancel := context.WithTimeout(ctx, countingTime)
			defer cancel()
			text := &limited{left: maxCounters}
			if s.control.Inspect(ctx, statsPath(s.scopes), text) == nil {
				counts[i] = &wire.ProxyCounts{Proxy: s.name, Services: countedBy(&text.text, s.scopes)}
			}
		})
	}
	all.Wait()
	for _, c := range counts {
		if c == nil {
			out.Silent++
			continue
		}
		out.Proxies = append(out.Proxies, *c)
	}
}

// limited is a buffer that fails when it has enough.
type limited struct {
	text bytes.Buffer
	left int
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, errors.New("the answer is too large")
	}
	return l.text.Write(p)
}

// countedBy adds up Envoy's counters by service.
func countedBy(text io.Reader, list []scope) []wire.ServiceCounts {
	prefixes := map[string][]scope{}
	for _, s := range list {
		prefix := strings.ReplaceAll(s.prefix, ":", "_") // as Envoy writes it
		prefixes[prefix] = append(prefixes[prefix], s)
	}
	sums := map[string]*wire.ServiceCounts{}
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), ": ")
		n, err := strconv.ParseUint(value, 10, 64)
		if !ok || err != nil {
			continue
		}
		denied := strings.TrimSuffix(name, "rbac."+xds.PermissionStats+".denied")
		at := strings.LastIndexByte(name, '.') + 1
		prefix, counter := name[:at], name[at:]
		if denied != name {
			prefix, counter = denied, "denied"
		}
		for _, of := range prefixes[prefix] {
			requests, failed := of.kind.of(counter)
			if !requests && !failed {
				continue
			}
			s := sums[of.service]
			if s == nil {
				if len(sums) >= maxCounted {
					continue
				}
				s = &wire.ServiceCounts{Service: of.service}
				sums[s.Service] = s
			}
			if requests {
				s.Requests += n
			}
			if failed {
				s.Failed += n
			}
		}
	}
	var out []wire.ServiceCounts
	for _, service := range slices.Sorted(maps.Keys(sums)) {
		out = append(out, *sums[service])
	}
	return out
}

// of says what a counter counts: all, those that failed, or both.
func (c countKind) of(counter string) (requests, failed bool) {
	switch c {
	case connections:
		return counter == "upstream_cx_total", counter == "upstream_cx_connect_fail"
	case calls:
		return counter == "total", failedCall(counter)
	case unled:
		nowhere := counter == "no_cluster" || counter == "no_route" || counter == "rq_direct_response"
		return nowhere, nowhere
	}
	if counter == "denied" {
		return false, true // as a 4xx it is among the answered
	}
	answered := strings.HasPrefix(counter, "downstream_rq_") && strings.HasSuffix(counter, "xx")
	return answered, counter == "downstream_rq_5xx"
}
