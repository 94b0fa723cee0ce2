package explain

import (
	"cmp"
	"fmt"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
)

// Outcome is what becomes of a call, or of a share of calls.
type Outcome string

const (
	// Allowed: the application gets it.
	Allowed Outcome = "allowed"
	// Denied: a permission refuses it; 403, or a closed connection.
	Denied Outcome = "denied"
	// Answered: a route answers by itself, with a redirect.
	Answered Outcome = "answered"
	// NoRoute: no rule takes the request; 404.
	NoRoute Outcome = "no route"
	// NoBackend: the rule leads nowhere; 500, or a closed connection.
	NoBackend Outcome = "no backend"
	// NoEndpoints: nobody healthy is behind the name; 503, or a closed connection.
	NoEndpoints Outcome = "no healthy endpoints"
	// Untrusted: the TLS handshake fails; 503, or a closed connection.
	Untrusted Outcome = "untrusted"
	// UnknownName: the caller's proxy has no way to the destination.
	UnknownName Outcome = "unknown name"
	// NoIdentity: the caller has no certificate, so no outbounds.
	NoIdentity Outcome = "no identity"
	// Mixed: calls fare differently, by share.
	Mixed Outcome = "mixed"
	// Undecided: what is needed to know could not be asked.
	Undecided Outcome = "undecided"
)

// Origin is the authored line behind something.
type Origin struct {
	// Kind, Mesh and Name of the policy; a zone's own is "<name>.<zone>".
	Kind mesh.KindName `json:"kind"`
	Mesh string        `json:"mesh,omitempty"`
	Name string        `json:"name"`
	// Path inside its spec, for example "rules[0].default.allow[1]".
	Path string `json:"path,omitempty"`
	// Revision of the policy.
	Revision mesh.Revision `json:"revision,omitempty"`
}

// OriginOf says a source in the words of the API; nil for none.
func OriginOf(s ir.Source) *Origin {
	if s.Key == (mesh.Key{}) {
		return nil
	}
	return &Origin{Kind: s.Key.Kind, Mesh: s.Key.Mesh, Name: s.Key.RESTName(), Path: s.Path, Revision: s.Revision}
}

// String is "MeshTimeout default/slow to[0].default (revision 12)".
func (o *Origin) String() string {
	if o == nil {
		return "the default"
	}
	s := effect.Cause{Kind: o.Kind, Mesh: o.Mesh, Name: o.Name, Path: o.Path}.String()
	if o.Revision > 0 {
		s += fmt.Sprintf(" (revision %d)", o.Revision)
	}
	return s
}

func originsOf(sources []ir.Source) []Origin {
	var out []Origin
	for _, s := range sources {
		if o := OriginOf(s); o != nil {
			out = append(out, *o)
		}
	}
	return out
}

// Explanation is the way of a call.
type Explanation struct {
	// Call that is explained, completed.
	Call Call `json:"call"`
	// Verdict on it.
	Verdict Verdict `json:"verdict"`
	// Caller whose calls these are.
	Caller Proxy `json:"caller"`
	// Destination as the caller's proxy knows it; nil when it knows none.
	Destination *Destination `json:"destination,omitempty"`
	// Route of HTTP requests.
	Route *Route `json:"route,omitempty"`
	// Ways that calls take, by weight.
	Ways []Way `json:"ways,omitempty"`
	// Notes for the reader: what could not be asked, what may be out of date.
	Notes []string `json:"notes,omitempty"`
}

// Verdict is the end of an explanation.
type Verdict struct {
	// Outcome of the call; mixed when its shares differ.
	Outcome Outcome `json:"outcome"`
	// Status of an HTTP request that does not reach the application; 0 when it does,
	// for TCP, and for mixed outcomes.
	Status int `json:"status,omitempty"`
	// Text for people.
	Text string `json:"text"`
	// By is the line that decides, if one does.
	By *Origin `json:"by,omitempty"`
	// Shares of a mixed outcome, and of an allowed one with several ways.
	Shares []Share `json:"shares,omitempty"`
}

// Share of calls with one outcome.
type Share struct {
	// Percent of calls.
	Percent float64 `json:"percent"`
	// Outcome of them, with Status as in Verdict.
	Outcome Outcome `json:"outcome"`
	Status  int     `json:"status,omitempty"`
	// Text for people.
	Text string `json:"text"`
	// By is the line that decides, if one does.
	By *Origin `json:"by,omitempty"`
}

// Proxy is one that stands for those like it.
type Proxy struct {
	// Name of the Dataplane, with its zone: "web-1.east".
	Name string `json:"name"`
	// Zone, Class and Workload of it.
	Zone     string `json:"zone"`
	Class    string `json:"class,omitempty"`
	Workload string `json:"workload,omitempty"`
	// Alike is how many proxies of the zone have the same configuration, this one included.
	Alike int `json:"alike"`
	// Identity is its SPIFFE ID; empty when it has none.
	Identity string `json:"identity,omitempty"`
	// TrustDomains that it believes.
	TrustDomains []string `json:"trustDomains,omitempty"`
	// State is present, presumed (believed to live), draining or lost.
	State string `json:"state"`
	// InSync: its Envoy has confirmed everything that it was sent.
	InSync bool `json:"inSync"`
	// At is the revision that its zone is at.
	At mesh.Revision `json:"at,omitempty"`
}

// Destination is what a name leads to.
type Destination struct {
	// Name for people: "backend.west:8080".
	Name string `json:"name"`
	// Kind of service; empty when the outbound resolves to none.
	Kind mesh.KindName `json:"kind,omitempty"`
	// Port of it.
	Port uint32 `json:"port"`
	// Protocol of the port.
	Protocol ir.Protocol `json:"protocol"`
	// Resource is its name in Envoy: of the route, and of the cluster.
	Resource string `json:"resource"`
	// Hostnames that resolve to it beside the caller.
	Hostnames []string `json:"hostnames,omitempty"`
	// Listeners are the addresses at which the caller's proxy takes calls.
	Listeners []string `json:"listeners,omitempty"`
	// Redirected: the kernel redirects connections to the addresses.
	Redirected bool `json:"redirected,omitempty"`
	// Settings of connections and of those TCP calls that no route has.
	Settings Settings `json:"settings"`
	// Origin of the backends of TCP; nil when they are the service itself.
	Origin *Origin `json:"origin,omitempty"`
}

// Settings are what policies say of a hop.
type Settings struct {
	// Limits in force.
	Limits []Limit `json:"limits,omitempty"`
	// LimitsFrom are the lines they come from, lowest priority first; none: the defaults.
	LimitsFrom []Origin `json:"limitsFrom,omitempty"`
	// Confs of the other policies.
	Confs []Conf `json:"confs,omitempty"`
}

// Limit is one timeout.
type Limit struct {
	// Name, for example "request timeout".
	Name string `json:"name"`
	// Value, for example "15s", or "none".
	Value string `json:"value"`
}

// Conf is the effective configuration of one policy kind.
type Conf struct {
	// Kind of the policies.
	Kind mesh.KindName `json:"kind"`
	// Fields by path, sorted: "http.numRetries: 5".
	Fields []string `json:"fields,omitempty"`
	// From are the lines it comes from, lowest priority first.
	From []Origin `json:"from,omitempty"`
}

// Route is the rule that takes a request.
type Route struct {
	// Name of the route in Envoy.
	Name string `json:"name"`
	// Match of it in words.
	Match string `json:"match"`
	// Origin of the rule; nil for the default route.
	Origin *Origin `json:"origin,omitempty"`
	// Tried are the routes that are looked at before and do not match, in order.
	Tried []Tried `json:"tried,omitempty"`
	// Status that the route answers with; 0 when it sends requests on.
	Status int `json:"status,omitempty"`
	// Actions are filters and copies, in words.
	Actions []string `json:"actions,omitempty"`
	// Settings of requests on the route.
	Settings Settings `json:"settings"`
}

// Tried is a route that does not match.
type Tried struct {
	// Name and Match of the route.
	Name  string `json:"name"`
	Match string `json:"match"`
	// Why it does not match.
	Why string `json:"why"`
	// Origin of the rule.
	Origin *Origin `json:"origin,omitempty"`
}

// Way is a share of the calls with one backend.
type Way struct {
	// Backend for people: "backend.west:8080"; "nowhere" when it was not found.
	Backend string `json:"backend"`
	// Cluster is its name in Envoy; empty when the backend was not found.
	Cluster string `json:"cluster,omitempty"`
	// Percent of calls.
	Percent float64 `json:"percent"`
	// Settings of connections.
	Settings Settings `json:"settings"`
	// Actions on this share alone, in words.
	Actions []string `json:"actions,omitempty"`
	// Peers that may answer.
	Peers []Peer `json:"peers,omitempty"`
}

// Peer is one service of one zone.
type Peer struct {
	// Name, "backend.west".
	Name string `json:"name"`
	// Service and Zone that it is.
	Service mesh.Key `json:"service"`
	Zone    string   `json:"zone"`
	// Port of the service.
	Port uint32 `json:"port"`
	// SNI that the caller asks for.
	SNI string `json:"sni"`
	// Identities that the caller accepts.
	Identities []string `json:"identities"`
	// Percent of the way's calls.
	Percent float64 `json:"percent"`
	// Why it gets them, or none.
	Why string `json:"why"`
	// Hosts in the caller's endpoint set, and those left out.
	Hosts []Host `json:"hosts,omitempty"`
	// Gateway of the zone; nil in the caller's own.
	Gateway *Gateway `json:"gateway,omitempty"`
	// Arrival at the peer's zone; nil when it was not asked or did not answer.
	Arrival *Arrival `json:"arrival,omitempty"`
	// Unanswered says why the zone did not answer.
	Unanswered string `json:"unanswered,omitempty"`
}

// Host states.
const (
	// Ready: it gets calls.
	Ready = "ready"
	// Ejected: Envoy found it failing and leaves it out for a while.
	Ejected = "ejected"
	// Out: the zone leaves it out.
	Out = "out"
)

// Host is one endpoint.
type Host struct {
	// Address, "10.0.0.1:8080", or "through the ingress of zone west".
	Address string `json:"address"`
	// Proxy whose it is, if the zone that answers knows it: "backend-1.west".
	Proxy string `json:"proxy,omitempty"`
	// Priority and Weight; see ir.Host.
	Priority uint32 `json:"priority"`
	Weight   uint32 `json:"weight,omitempty"`
	// State is ready, ejected or out.
	State string `json:"state"`
	// Why it is not ready.
	Why string `json:"why,omitempty"`
	// Percent of the calls of its way.
	Percent float64 `json:"percent"`
}

// Gateway is the ingress of another zone as the caller sees it.
type Gateway struct {
	// Cluster is its name in Envoy.
	Cluster string `json:"cluster"`
	// Hosts are its addresses.
	Hosts []Host `json:"hosts,omitempty"`
}

// Arrival is what happens in the zone of the server.
type Arrival struct {
	// Zone that answers, and the revision that it is at.
	Zone string        `json:"zone"`
	At   mesh.Revision `json:"at,omitempty"`
	// Ingress that passes the call on; nil when it comes from the same zone.
	Ingress *Ingress `json:"ingress,omitempty"`
	// Servers behind the service: those that are alike are one.
	Servers []Server `json:"servers,omitempty"`
	// Notes for the reader.
	Notes []string `json:"notes,omitempty"`
}

// Ingress passes TLS on by SNI.
type Ingress struct {
	// Proxies of it, "ingress-1.west".
	Proxies []string `json:"proxies,omitempty"`
	// Exported: it offers the SNI.
	Exported bool `json:"exported"`
	// Hosts behind the SNI.
	Hosts []Host `json:"hosts,omitempty"`
}

// Server is a class of proxies that may get the call.
type Server struct {
	// Proxies of it that are behind the service, at most ten, and Count of all.
	Proxies []string `json:"proxies"`
	Count   int      `json:"count"`
	// Ready of them get calls.
	Ready int `json:"ready"`
	// Class of them.
	Class string `json:"class"`
	// Inbound that takes the call; Port and Protocol of it.
	Inbound  string      `json:"inbound"`
	Port     uint32      `json:"port,omitempty"`
	Protocol ir.Protocol `json:"protocol,omitempty"`
	// Identity that they prove.
	Identity string `json:"identity,omitempty"`
	// TrustDomains that they believe.
	TrustDomains []string `json:"trustDomains,omitempty"`
	// Permission that decides.
	Permission Decision `json:"permission"`
	// Settings of the call at the inbound.
	Settings Settings `json:"settings"`
	// Fault is why calls fail before the permission is asked; empty if they do not.
	Fault string `json:"fault,omitempty"`
}

// DefaultDeny is the decision where no line speaks of a caller.
const DefaultDeny effect.Decision = "default deny"

// Decision on a caller.
type Decision struct {
	// Decision is deny, "allow, shadow deny", allow or default deny.
	Decision effect.Decision `json:"decision"`
	// Who the line speaks of.
	Who string `json:"who,omitempty"`
	// Origin is the line that decides; nil for default deny.
	Origin *Origin `json:"origin,omitempty"`
	// Lines of the permission, and how many of them allow somebody.
	Lines  int `json:"lines"`
	Allows int `json:"allows"`
}

// lets reports whether a decision lets the caller in.
func (d *Decision) lets() bool { return d.Decision == effect.Allow || d.Decision == effect.ShadowDeny }

// Decide finds the line that decides on a caller: deny, then shadow deny, then
// allow; else default deny.
func Decide(p ir.Permission, caller, sni string) Decision {
	out := Decision{Decision: DefaultDeny, Allows: len(p.Allow) + len(p.AllowWithShadowDeny)}
	out.Lines = len(p.Deny) + out.Allows
	for _, r := range effect.Rules(p) {
		if Matches(r.Match, caller, sni) {
			out.Decision, out.Who, out.Origin = r.Decision, effect.Who(r.Match), OriginOf(r.Source)
			return out
		}
	}
	return out
}

// Matches reports whether a match speaks of a caller who asks for an SNI. A match
// without any part speaks of nobody.
func Matches(m mesh.Match, caller, sni string) bool {
	if m.SpiffeID == nil && m.SNI == nil || caller == "" {
		return false
	}
	known := mesh.Match{SpiffeID: &mesh.SpiffeIDMatch{Type: mesh.MatchExact, Value: caller}, SNI: &mesh.SNIMatch{Type: mesh.MatchExact, Value: sni}}
	return ir.Covers(m, known)
}

func settingsOf(t ir.Timeouts, confs ir.Confs) Settings {
	out := Settings{LimitsFrom: originsOf(t.Sources)}
	for _, l := range effect.Limits(t) {
		out.Limits = append(out.Limits, Limit(l))
	}
	for _, c := range confs {
		if c.Kind != mesh.KindMeshTimeout {
			out.Confs = append(out.Confs, Conf{Kind: c.Kind, Fields: effect.Fields(c.Conf), From: originsOf(c.Sources)})
		}
	}
	return out
}

// plural is "1 host", "2 hosts".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// or is the first that is not empty.
func or[T comparable](list ...T) T { return cmp.Or(list...) }
