package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/mesh/ir/explain"
)

func explainCommand() *cobra.Command {
	var meshName string
	var output format
	var headers []string
	var call explain.Call
	cmd := &cobra.Command{
		Use:   "explain SOURCE DESTINATION[:PORT]",
		Short: "Show the way of a call and what becomes of it",
		Long: `Explains a call hop by hop, in every zone that it touches: what the name means, the route and
the rule that chose it, the endpoints with their health, timeouts, TLS identities, and the line
that allows or denies. It reads what the zones compiled and what Envoys say of their hosts.

SOURCE is a dataplane (web-1.east), a pod, a workload or a MeshService. DESTINATION is a service
(backend, backend.west, meshmultizoneservice/backend), a hostname or the address of an outbound.
Those of Kubernetes zones have their namespace in their name: web.shop, or as kubectl says it shop/web;
web.shop.east where several zones have it.

Exit codes: 0 every call is allowed, or answered as a route says; 3 calls fail, all or a part:
denied, no route, no healthy endpoints, no trust, unknown name; 1 it cannot be explained, or a
zone that would know did not answer; 2 wrong usage; 5 global or the source's zone cannot be reached.`,
		Example: `  tombolo explain web-1.east backend:8080
  tombolo explain web backend.west:8080 --method POST --path /orders?id=7 --header x-beta=1
  tombolo explain web.shop.east backend.shop.svc.cluster.local:8080
  tombolo explain web-1.east backend.svc.mesh.local -o json | jq -r .verdict.outcome`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			call.Source, call.Destination = args[0], args[1]
			if host, port, err := net.SplitHostPort(args[1]); err == nil {
				n, err := strconv.ParseUint(port, 10, 16)
				if err != nil || n == 0 {
					return &exitError{exitUsage, fmt.Sprintf("the port must be 1 to 65535, not %q", port)}
				}
				call.Destination, call.Port = host, uint32(n)
			}
			for _, h := range headers {
				name, value, ok := strings.Cut(h, "=")
				if !ok {
					return &exitError{exitUsage, fmt.Sprintf("--header must be name=value, not %q", h)}
				}
				call.Headers = append(call.Headers, explain.Header{Name: name, Value: value})
			}
			if err := call.Check(); err != nil {
				return &exitError{exitUsage, err.Error()}
			}
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := c.get(cmd.Context(), "/meshes/"+url.PathEscape(meshName)+"/explain", call.Query(), &raw); err != nil {
				return err
			}
			var x explain.Explanation
			if err := json.Unmarshal(raw, &x); err != nil {
				return fmt.Errorf("read answer: %w", err)
			}
			if output != asTable {
				err = printAll(cmd.OutOrStdout(), output, []json.RawMessage{raw})
			} else {
				err = printExplanation(cmd.OutOrStdout(), &x)
			}
			if err != nil {
				return err
			}
			return verdictCode(&x)
		},
	}
	f := cmd.Flags()
	meshFlag(cmd, &meshName)
	outputFlag(cmd, &output)
	f.StringVar(&call.Method, "method", "GET", "method of the request")
	f.StringVar(&call.Path, "path", "/", "path of the request, with its query")
	f.StringArrayVar(&headers, "header", nil, "header of the request, name=value; may be repeated")
	return cmd
}

// verdictCode is how the command ends: quietly, since the verdict was printed.
func verdictCode(x *explain.Explanation) error {
	undecided := x.Verdict.Outcome == explain.Undecided
	failed := x.Verdict.Outcome == explain.Mixed && len(x.Verdict.Shares) == 0
	for _, s := range x.Verdict.Shares {
		undecided = undecided || s.Outcome == explain.Undecided
		failed = failed || s.Outcome != explain.Undecided && s.Outcome != explain.Allowed && s.Outcome != explain.Answered
	}
	switch x.Verdict.Outcome {
	case explain.Allowed, explain.Answered:
		return nil
	case explain.Undecided:
		return &exitError{exitFailed, ""}
	case explain.Mixed:
		if undecided && !failed {
			return &exitError{exitFailed, ""}
		}
	}
	return &exitError{exitRejected, ""}
}

// page writes indented lines.
type page struct {
	b strings.Builder
}

func (p *page) line(depth int, format string, args ...any) {
	p.b.WriteString(strings.Repeat("  ", depth))
	fmt.Fprintf(&p.b, format, args...)
	p.b.WriteByte('\n')
}

func printExplanation(w io.Writer, x *explain.Explanation) error {
	p := &page{}
	p.line(0, "%s", strings.ToUpper(string(x.Verdict.Outcome)))
	if len(x.Verdict.Shares) == 0 {
		p.line(0, "%s", x.Verdict.Text)
	}
	for _, s := range x.Verdict.Shares {
		p.line(0, "%5s of calls: %s", explain.Percent(s.Percent), s.Text)
	}
	p.line(0, "")
	p.caller(&x.Caller)
	if x.Destination != nil {
		p.destination(x.Destination)
	}
	if x.Route != nil {
		p.route(x.Route)
	}
	for i := range x.Ways {
		p.way(&x.Ways[i])
	}
	if len(x.Notes) > 0 {
		p.line(0, "notes")
		for _, n := range x.Notes {
			p.line(1, "%s", n)
		}
	}
	_, err := io.WriteString(w, p.b.String())
	return err
}

func (p *page) caller(c *explain.Proxy) {
	p.line(0, "caller     %s", c.Name)
	state := c.State
	if c.Alike > 1 {
		state += fmt.Sprintf(", one of %d alike", c.Alike)
	}
	if !c.InSync {
		state += ", not in sync"
	}
	if c.At > 0 {
		state += fmt.Sprintf(", zone %s at revision %d", c.Zone, c.At)
	}
	p.line(1, "state      %s", state)
	if c.Identity != "" {
		p.line(1, "proves     %s", c.Identity)
		p.line(1, "believes   %s", strings.Join(c.TrustDomains, ", "))
	}
}

func (p *page) destination(d *explain.Destination) {
	p.line(0, "name       %s", strings.TrimSpace(string(d.Kind)+" "+d.Name+", "+string(d.Protocol)))
	if len(d.Hostnames) > 0 {
		p.line(1, "hostname   %s", strings.Join(d.Hostnames, ", "))
	}
	at := strings.Join(d.Listeners, ", ")
	if d.Redirected {
		at += " (redirected)"
	}
	p.line(1, "outbound   %s", at)
	if !d.Protocol.IsHTTP() {
		p.line(1, "backends   by %s", d.Origin)
		p.settings(1, &d.Settings)
	}
}

func (p *page) route(r *explain.Route) {
	p.line(0, "route      %s", strings.TrimSpace(r.Name+": "+r.Match))
	p.line(1, "by         %s", r.Origin)
	for _, t := range r.Tried {
		p.line(1, "not        %s: %s, by %s", t.Match, t.Why, t.Origin)
	}
	if r.Status != 0 {
		p.line(1, "answers    %d", r.Status)
	}
	for _, a := range r.Actions {
		p.line(1, "does       %s", a)
	}
	p.settings(1, &r.Settings)
}

func (p *page) settings(depth int, s *explain.Settings) {
	var limits []string
	for _, l := range s.Limits {
		if l.Value != "none" {
			limits = append(limits, l.Name+" "+l.Value)
		}
	}
	if len(limits) > 0 {
		from := "the defaults"
		if len(s.LimitsFrom) > 0 {
			from = origins(s.LimitsFrom)
		}
		p.line(depth, "timeouts   %s", strings.Join(limits, ", "))
		p.line(depth, "           by %s", from)
	}
	for _, c := range s.Confs {
		p.line(depth, "%-10s %s", c.Kind, strings.Join(c.Fields, ", "))
		p.line(depth, "           by %s", origins(c.From))
	}
}

func origins(list []explain.Origin) string {
	var out []string
	for i := range list {
		out = append(out, list[i].String())
	}
	return strings.Join(out, ", then ")
}

func (p *page) way(w *explain.Way) {
	p.line(0, "backend    %s gets %s", w.Backend, explain.Percent(w.Percent))
	for _, a := range w.Actions {
		p.line(1, "does       %s", a)
	}
	p.settings(1, &w.Settings)
	for i := range w.Peers {
		p.peer(&w.Peers[i])
	}
}

func (p *page) peer(x *explain.Peer) {
	p.line(1, "peer       %s gets %s: %s", x.Name, explain.Percent(x.Percent), x.Why)
	p.line(2, "asks for   %s", x.SNI)
	p.line(2, "accepts    %s", strings.Join(x.Identities, ", "))
	p.hosts(2, "endpoint", x.Hosts)
	if x.Gateway != nil {
		p.hosts(2, "gateway", x.Gateway.Hosts)
	}
	if x.Arrival == nil {
		p.line(2, "unknown    %s", orDash(x.Unanswered))
		return
	}
	p.arrival(x.Arrival)
}

func (p *page) hosts(depth int, what string, hosts []explain.Host) {
	for _, h := range hosts {
		text := h.Address
		if h.Proxy != "" {
			text = h.Proxy + " at " + h.Address
		}
		text += ", " + h.State
		if h.Why != "" {
			text += ": " + h.Why
		} else if h.Percent > 0 {
			text += ", " + explain.Percent(h.Percent)
		}
		p.line(depth, "%-10s %s", what, text)
	}
}

func (p *page) arrival(a *explain.Arrival) {
	if a.At > 0 {
		p.line(2, "zone       %s at revision %d", a.Zone, a.At)
	}
	if in := a.Ingress; in != nil {
		state := "does not offer the SNI"
		if in.Exported {
			state = "passes TLS on by SNI"
		}
		p.line(2, "ingress    %s %s", orDash(strings.Join(in.Proxies, ", ")), state)
		p.hosts(3, "endpoint", in.Hosts)
	}
	for i := range a.Servers {
		p.server(&a.Servers[i])
	}
	for _, n := range a.Notes {
		p.line(2, "note       %s", n)
	}
}

func (p *page) server(s *explain.Server) {
	names := strings.Join(s.Proxies, ", ")
	if more := s.Count - len(s.Proxies); more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	p.line(2, "server     %s: %d of %d ready", names, s.Ready, s.Count)
	p.line(3, "inbound    %s, port %d, %s", s.Inbound, s.Port, s.Protocol)
	p.line(3, "proves     %s", orDash(s.Identity))
	if s.Fault != "" {
		p.line(3, "fails      %s", s.Fault)
		return
	}
	p.line(3, "believes   %s", strings.Join(s.TrustDomains, ", "))
	d := &s.Permission
	if d.Origin == nil {
		p.line(3, "permission %s: %d lines, none of them speaks of the caller", d.Decision, d.Lines)
	} else {
		p.line(3, "permission %s %s", d.Decision, d.Who)
		p.line(3, "           by %s", d.Origin)
	}
	p.settings(3, &s.Settings)
}
