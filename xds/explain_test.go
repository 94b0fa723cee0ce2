package xds_test

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/explain"
	"github.com/tombolo-mesh/tombolo/mesh/ir/irtest"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/xds/delta"
)

// Environment of TestExplainOracle: how many random worlds it makes, and the seed.
const (
	roundsVariable = "TOMBOLO_EXPLAIN_ROUNDS"
	seedVariable   = "TOMBOLO_EXPLAIN_SEED"
	defaultRounds  = 10
	manyRounds     = 40
	callsOfRound   = 24
)

// oracle is a caller, web, and servers of two services behind real Envoys, in
// worlds that change at random.
type oracle struct {
	*rig
	rng     *rand.Rand
	servers []*oracleServer
	// listen are the ports of web's outbounds, by destination.
	listen map[string]uint32
	web    *envoyProcess
	log    string
}

type oracleServer struct {
	name, service string
	http, tcp     uint32
	app           [2]uint32
	envoy         *envoyProcess
}

func (s *oracleServer) id() string { return "spiffe://default.east.mesh.local/workload/" + s.service }

func fromEnv(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

// TestExplainOracle: what explain says of random calls in random worlds is what
// real Envoys do: the answer, the route, the backend, and the line that denies.
func TestExplainOracle(t *testing.T) {
	seed := fromEnv(t, seedVariable, 7)
	o := &oracle{rig: newRig(t, "default.east.mesh.local"), rng: rand.New(rand.NewPCG(uint64(seed), 0)), listen: map[string]uint32{}}
	o.log = filepath.Join(o.dir, "access.log")
	for _, name := range []string{"alpha-1", "beta-1", "beta-2"} {
		s := &oracleServer{name: name, service: strings.Split(name, "-")[0], http: freePort(t), tcp: freePort(t)}
		s.app = [2]uint32{nameServer(t, name), nameEcho(t, name)}
		o.servers = append(o.servers, s)
	}
	for _, d := range []string{"alpha:8080", "beta:8080", "ghost:8080", "lost:8080", "alpha:9090", "beta:9090", "ghost:9090"} {
		o.listen[d] = freePort(t)
	}
	outcomes := map[explain.Outcome]int{}
	rounds := fromEnv(t, roundsVariable, defaultRounds)
	for round := range rounds {
		w := o.world(round)
		o.configure(w)
		for i := range callsOfRound {
			o.check(w, fmt.Sprintf("%d-%d", round, i), outcomes)
			if t.Failed() {
				return
			}
		}
	}
	t.Log(outcomes)
	wanted := []explain.Outcome{explain.Allowed, explain.Denied, explain.NoEndpoints}
	if rounds >= manyRounds { // a short run may miss what is rare
		wanted = append(wanted, explain.Answered, explain.NoRoute, explain.NoBackend, explain.UnknownName, explain.Mixed)
	}
	for _, want := range wanted {
		if outcomes[want] == 0 {
			t.Error("no call came to the outcome", want)
		}
	}
}

// nameServer answers requests with a name.
func nameServer(t *testing.T, name string) uint32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return portOf(l)
}

// nameEcho answers a line with a name, and a request with that too: one that a
// MeshTCPRoute leads to a TCP port.
func nameEcho(t *testing.T, name string) uint32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				line, err := bufio.NewReader(c).ReadString('\n')
				switch {
				case err != nil:
				case strings.Contains(line, " HTTP/1."):
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(name), name)
				default:
					fmt.Fprintln(c, name)
				}
			}()
		}
	}()
	return portOf(l)
}

// pick one of several.
func pick[T any](o *oracle, list ...T) T { return list[o.rng.IntN(len(list))] }

// chance is true in percent of all cases.
func (o *oracle) chance(percent int) bool { return o.rng.IntN(100) < percent }

type doc = map[string]any

// world makes a random one: policies, and who is ready.
func (o *oracle) world(round int) *irtest.World {
	o.t.Helper()
	w := irtest.New("east")
	add := func(kind mesh.KindName, name, zone string, spec, status doc) {
		d := doc{"type": kind, "mesh": "default", "name": name, "spec": spec, "revision": 10 + o.rng.IntN(90),
			"labels": map[string]string{mesh.LabelZone: zone, mesh.LabelWorkload: strings.Split(name, "-")[0]}}
		if zone == "" {
			delete(d, "labels")
		}
		if kind, _ := mesh.KindByName(kind); kind.Inline {
			delete(d, "spec")
			maps.Copy(d, spec)
		}
		if status != nil {
			d["status"] = status
		}
		body, err := json.Marshal(d)
		must(o.t, err)
		must(o.t, w.Add(body))
	}
	add(mesh.KindMeshIdentity, "identity", "", doc{"provider": doc{"type": "Bundled"}}, nil)
	for _, b := range o.trust {
		add(mesh.KindMeshTrust, "east", "east", doc{"trustDomain": b.TrustDomain, "caBundles": []doc{{"type": "Pem", "pem": doc{"value": b.PEM}}}}, nil)
	}
	var outbounds []doc
	for _, d := range slices.Sorted(maps.Keys(o.listen)) {
		host, port, _ := strings.Cut(d, ":")
		n, _ := strconv.Atoi(port)
		outbounds = append(outbounds, doc{"address": "127.0.0.1", "port": o.listen[d], "backendRef": doc{"kind": "MeshService", "name": host, "port": n}})
	}
	add(mesh.KindDataplane, "web", "east", doc{"networking": doc{"address": "127.0.0.1", "outbound": outbounds}}, doc{"connected": true})
	for _, s := range o.servers {
		status := doc{"connected": !o.chance(6), "draining": o.chance(6), "spiffeID": s.id()}
		if o.chance(10) {
			status["notReady"] = []string{pick(o, "http", "tcp")}
		}
		add(mesh.KindDataplane, s.name, "east", doc{"networking": doc{"address": "127.0.0.1", "inbound": []doc{
			{"name": "http", "port": s.http, "servicePort": s.app[0], "serviceAddress": "127.0.0.1", "protocol": "http"},
			{"name": "tcp", "port": s.tcp, "servicePort": s.app[1], "serviceAddress": "127.0.0.1", "protocol": "tcp"},
		}}}, status)
	}
	for _, service := range []string{"alpha", "beta", "ghost"} {
		add(mesh.KindMeshService, service, "east", doc{
			"selector":   doc{"dataplaneLabels": doc{"matchLabels": map[string]string{mesh.LabelWorkload: service}}},
			"identities": []doc{{"type": "SpiffeID", "value": "spiffe://default.east.mesh.local/workload/" + service}},
			"ports":      []doc{{"port": 8080, "targetPort": "http", "appProtocol": "http"}, {"port": 9090, "targetPort": "tcp", "appProtocol": "tcp"}},
		}, nil)
	}
	for i := range 1 + o.rng.IntN(4) {
		add(mesh.KindMeshTrafficPermission, fmt.Sprintf("p%d", i), "", o.permission(), nil)
	}
	for i := range o.rng.IntN(5) {
		add(mesh.KindMeshHTTPRoute, fmt.Sprintf("r%d", i), "", o.route(), nil)
	}
	if o.chance(50) {
		add(mesh.KindMeshTCPRoute, "t", "", doc{"to": []doc{{"targetRef": o.service(), "rules": []doc{{"default": doc{"backendRefs": o.backends(9090)}}}}}}, nil)
	}
	if o.chance(50) {
		add(mesh.KindMeshTimeout, "slow", "", doc{"to": []doc{{"targetRef": doc{"kind": "Mesh"}, "default": doc{"http": doc{"requestTimeout": "7s"}}}}}, nil)
	}
	return w
}

func (o *oracle) service() doc {
	return doc{"kind": "MeshService", "labels": map[string]string{mesh.LabelDisplayName: pick(o, "alpha", "beta", "beta", "ghost")}}
}

func (o *oracle) permission() doc {
	id := func() doc {
		return pick(o,
			doc{"spiffeID": doc{"type": "Exact", "value": webID}},
			doc{"spiffeID": doc{"type": "Exact", "value": webID}, "sni": doc{"type": "Exact", "value": mesh.SNI(8080, "alpha", "east", "default")}},
			doc{"spiffeID": doc{"type": "Exact", "value": webID + "x"}},
			doc{"spiffeID": doc{"type": "Prefix", "value": "spiffe://default.east.mesh.local/"}},
			doc{"spiffeID": doc{"type": "Prefix", "value": "spiffe://default.west.mesh.local/"}},
			doc{"sni": doc{"type": "Exact", "value": mesh.SNI(pick[uint32](o, 8080, 9090), pick(o, "alpha", "beta"), "east", "default")}},
		)
	}
	entries := doc{}
	for _, list := range []struct {
		name    string
		percent int
	}{{"allow", 95}, {"deny", 25}, {"allowWithShadowDeny", 20}} {
		if o.chance(list.percent) {
			entries[list.name] = []doc{id(), id()}[:1+o.rng.IntN(2)]
		}
	}
	out := doc{"rules": []doc{{"default": entries}}}
	if o.chance(60) {
		target := doc{"kind": "Dataplane", "labels": map[string]string{mesh.LabelWorkload: pick(o, "alpha", "beta")}}
		if o.chance(30) {
			target["sectionName"] = pick(o, "http", "tcp")
		}
		out["targetRef"] = target
	}
	return out
}

func (o *oracle) backends(port int) []doc {
	var out []doc
	for range 1 + o.rng.IntN(3) {
		out = append(out, doc{"kind": "MeshService", "name": pick(o, "alpha", "alpha", "alpha", "beta", "beta", "beta", "ghost", "nobody"), "port": port, "weight": o.rng.IntN(4)})
	}
	return out
}

func (o *oracle) route() doc {
	var rules []doc
	for range 1 + o.rng.IntN(4) {
		match := doc{}
		if o.chance(80) {
			match["path"] = pick(o,
				doc{"type": "Exact", "value": pick(o, "/a", "/a/b", "/c")},
				doc{"type": "PathPrefix", "value": pick(o, "/", "/a", "/a/", "/a/b", "/c")},
				doc{"type": "RegularExpression", "value": pick(o, "/a.*", "/[bc]", "/a|/c", ".*")})
		}
		if o.chance(30) {
			match["method"] = pick(o, "GET", "POST")
		}
		if o.chance(40) {
			match["headers"] = []doc{pick(o,
				doc{"name": "x-beta", "value": "1"},
				doc{"name": "x-beta", "type": "Present"},
				doc{"name": "x-beta", "type": "Absent"},
				doc{"name": "x-beta", "type": "Prefix", "value": "1"},
				doc{"name": "x-beta", "type": "RegularExpression", "value": "[0-9]+"})}
		}
		if o.chance(20) {
			match["queryParams"] = []doc{pick(o,
				doc{"type": "Exact", "name": "q", "value": "1"},
				doc{"type": "RegularExpression", "name": "q", "value": "[12]"})}
		}
		conf := doc{}
		switch {
		case o.chance(25):
			conf["filters"] = []doc{{"type": "RequestRedirect", "requestRedirect": doc{"statusCode": pick(o, 301, 307), "hostname": "elsewhere"}}}
		case o.chance(70):
			conf["backendRefs"] = o.backends(8080)
		}
		rules = append(rules, doc{"matches": []doc{match}, "default": conf})
	}
	to := doc{"targetRef": o.service(), "rules": rules}
	if o.chance(50) {
		to["unmatched"] = "NotFound"
	}
	return doc{"to": []doc{to}}
}

// configure gives every Envoy what a world compiles to, and waits until it has it.
func (o *oracle) configure(w *irtest.World) {
	o.t.Helper()
	loop := ir.InstanceInbound{Address: "127.0.0.1", ServiceAddress: "127.0.0.1"}
	for _, s := range o.servers {
		p, _ := o.compile(w, s.name)
		if s.envoy == nil {
			s.envoy = o.start(s.name, s.id(), p, &ir.Instance{Inbounds: []ir.InstanceInbound{loop, loop}})
		} else {
			s.envoy.update(p)
		}
	}
	p, sets := o.compile(w, "web")
	if o.web == nil {
		o.web = o.start("web", webID, p, &ir.Instance{}, sets...)
	}
	resources, err := xds.Build(p)
	must(o.t, err)
	for _, set := range sets {
		r, err := xds.BuildEndpoints(set)
		must(o.t, err)
		resources = append(resources, r)
	}
	b, err := xds.BuildBundles(o.trust)
	must(o.t, err)
	o.push("web", append(o.logged(resources), b))
	own, err := xds.BuildInstance(p, &ir.Instance{})
	must(o.t, err)
	o.ads.Assign("web", "web", delta.NewSet(o.logged(own)))
	o.eventually("web in sync", func() bool { return o.ads.InSync("web") })
	o.eventually("nobody ejected", func() bool { return !strings.Contains(o.web.get("/clusters?format=json"), "failed_outlier_check") })
}

func (o *oracle) compile(w *irtest.World, name string) (*ir.Proxy, []*ir.EndpointSet) {
	o.t.Helper()
	class, _, err := w.Class("default", name)
	must(o.t, err)
	p := ir.Compile(w, class)
	var sets []*ir.EndpointSet
	for _, ref := range ir.EndpointRefs(p) {
		sets = append(sets, ir.CompileEndpoints(w, ref))
	}
	return p, sets
}

// logged adds an access log to what takes web's calls.
func (o *oracle) logged(list []*delta.Resource) []*delta.Resource {
	o.t.Helper()
	pack := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		must(o.t, err)
		return a
	}
	file := &filev3.FileAccessLog{Path: o.log, AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
		Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{
			InlineString: "%REQ(X-CASE)% %ROUTE_NAME% %UPSTREAM_CLUSTER% %RESPONSE_CODE% %RESPONSE_FLAGS%\n"}}}}}}
	log := []*accesslogv3.AccessLog{{Name: "file", ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: pack(file)}}}
	change := func(r *delta.Resource, m proto.Message) *delta.Resource {
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		must(o.t, err)
		sum := sha256.Sum256(body)
		return &delta.Resource{TypeURL: r.TypeURL, Name: r.Name, Version: hex.EncodeToString(sum[:]), Body: body}
	}
	out := slices.Clone(list)
	for i, r := range out {
		switch r.TypeURL {
		case xds.ListenerType:
			var l listenerv3.Listener
			must(o.t, proto.Unmarshal(r.Body, &l))
			for _, f := range l.FilterChains[0].Filters {
				var m hcmv3.HttpConnectionManager
				if any := f.GetTypedConfig(); any != nil && any.MessageIs(&m) {
					must(o.t, any.UnmarshalTo(&m))
					m.AccessLog = log
					f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: pack(&m)}
				}
			}
			out[i] = change(r, &l)
		case "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig":
			var c corev3.TypedExtensionConfig
			must(o.t, proto.Unmarshal(r.Body, &c))
			var m tcpv3.TcpProxy
			if c.TypedConfig.MessageIs(&m) {
				must(o.t, c.TypedConfig.UnmarshalTo(&m))
				m.AccessLog = log
				c.TypedConfig = pack(&m)
			}
			out[i] = change(r, &c)
		}
	}
	return out
}

// explained is what explain says of a call in a world, as a zone would ask.
func (o *oracle) explained(w *irtest.World, call explain.Call) *explain.Explanation {
	o.t.Helper()
	must(o.t, call.Check())
	p, sets := o.compile(w, "web")
	d := &explain.Departure{Compiled: p, Sets: map[string]*ir.EndpointSet{},
		Caller: explain.Proxy{Name: "web.east", Zone: "east", Identity: webID, State: "present", InSync: true},
		Candidates: func(service mesh.Key, port uint32) []ir.Candidate {
			return ir.Candidates(w, service, port)
		}}
	for _, s := range sets {
		d.Sets[s.Name] = s
	}
	x, err := explain.Leave(d, call)
	must(o.t, err)
	for _, p := range x.Missing()["east"] {
		l := &explain.Landing{Zone: "east"}
		for _, c := range ir.Candidates(w, p.Service, p.Port) {
			server, _ := o.compile(w, c.Proxy.Name)
			l.Instances = append(l.Instances, explain.Instance{Candidate: c, Compiled: server,
				Identity: "spiffe://default.east.mesh.local/workload/" + strings.Split(c.Proxy.Name, "-")[0]})
		}
		p.Arrival = explain.Arrive(l, x.Arriving(p))
	}
	x.Conclude()
	return x
}

// check makes one random call and compares what becomes of it.
func (o *oracle) check(w *irtest.World, id string, outcomes map[explain.Outcome]int) {
	o.t.Helper()
	to := pick(o, "alpha:8080", "alpha:8080", "alpha:8080", "alpha:8080", "beta:8080", "beta:8080", "beta:8080", "beta:8080",
		"ghost:8080", "lost:8080", "alpha:9090", "alpha:9090", "beta:9090", "beta:9090", "ghost:9090")
	host, port, _ := strings.Cut(to, ":")
	n, _ := strconv.Atoi(port)
	call := explain.Call{Source: "web", Destination: host, Port: uint32(n), Method: pick(o, "GET", "GET", "POST", "DELETE"),
		Path: pick(o, "/", "/a", "/a/", "/a/b", "/ab", "/b", "/c", "/a/../c", "/c/./d") + "?case=" + id + pick(o, "", "&q=1", "&q=2", "&q=3")}
	if o.chance(50) {
		call.Headers = []explain.Header{{Name: "x-beta", Value: pick(o, "1", "12", "x", "")}}
	}
	x := o.explained(w, call)
	outcomes[x.Verdict.Outcome]++
	// An endpoint or route that has just been acknowledged may take a moment to be used.
	var last error
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		if strings.HasSuffix(to, ":9090") || host == "lost" {
			last = o.compareTCP(x, to)
		} else {
			last = o.compareHTTP(x, to, call, id)
		}
		if last == nil {
			return
		}
		<-tick.C
	}
	text, _ := json.MarshalIndent(x, "", "  ")
	o.t.Errorf("case %s, %+v: %v\n%s", id, call, last, text)
}

// fates are the shares of a verdict, one at least.
func fates(x *explain.Explanation) []explain.Share {
	if len(x.Verdict.Shares) > 0 {
		return x.Verdict.Shares
	}
	return []explain.Share{{Percent: 100, Outcome: x.Verdict.Outcome, Status: x.Verdict.Status, By: x.Verdict.By}}
}

func (o *oracle) compareHTTP(x *explain.Explanation, to string, call explain.Call, id string) error {
	req, err := http.NewRequestWithContext(o.t.Context(), call.Method, fmt.Sprintf("http://127.0.0.1:%d%s", o.listen[to], call.Path), nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-Case", id)
	for _, h := range call.Headers {
		req.Header.Set(h.Name, h.Value)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	fate := slices.IndexFunc(fates(x), func(s explain.Share) bool { return cmp.Or(s.Status, 200) == resp.StatusCode })
	if fate < 0 {
		return fmt.Errorf("Envoy answered %d %s", resp.StatusCode, body)
	}
	share := fates(x)[fate]
	line := o.access(id)
	if len(line) != 5 {
		return fmt.Errorf("access log: %q", line)
	}
	if line[1] != x.Route.Name {
		return fmt.Errorf("route %s, not %s", line[1], x.Route.Name)
	}
	if share.Outcome == explain.Allowed && !o.serves(x, string(body)) {
		return fmt.Errorf("%s answered, which is none of the ready servers", body)
	}
	if cluster := line[2]; len(x.Ways) > 0 && share.Outcome != explain.NoBackend &&
		!slices.ContainsFunc(x.Ways, func(w explain.Way) bool { return w.Cluster == cluster && w.Percent > 0 }) {
		return fmt.Errorf("cluster %s is none of those explained", cluster)
	}
	if share.Outcome == explain.Denied && share.Status == http.StatusForbidden { // TCP says nothing
		var by string
		o.eventually("the denial is logged", func() bool {
			for _, l := range o.denials() {
				if strings.Contains(l, "?case="+id+" ") || strings.Contains(l, "?case="+id+"&") {
					_, by, _ = strings.Cut(l, " by ")
				}
			}
			return by != ""
		})
		want := func(s explain.Share) string {
			if s.By == nil {
				return "default-deny"
			}
			return s.By.Name + "#" + s.By.Path
		}
		if !slices.ContainsFunc(fates(x), func(s explain.Share) bool { return s.Outcome == explain.Denied && want(s) == strings.TrimSpace(by) }) {
			return fmt.Errorf("denied by %s", by)
		}
	}
	return nil
}

func (o *oracle) serves(x *explain.Explanation, name string) bool {
	for _, w := range x.Ways {
		for _, p := range w.Peers {
			for _, h := range p.Hosts {
				if h.Proxy == name+".east" && h.Percent > 0 && w.Percent > 0 {
					return true
				}
			}
		}
	}
	return false
}

func (o *oracle) compareTCP(x *explain.Explanation, to string) error {
	name, err := o.dial(to)
	if err != nil {
		if slices.ContainsFunc(fates(x), func(s explain.Share) bool { return s.Outcome != explain.Allowed }) {
			return nil
		}
		return err
	}
	if !slices.ContainsFunc(fates(x), func(s explain.Share) bool { return s.Outcome == explain.Allowed }) {
		return fmt.Errorf("%s answered", name)
	}
	if !o.serves(x, name) {
		return fmt.Errorf("%s answered, which is none of the ready servers", name)
	}
	return nil
}

func (o *oracle) dial(to string) (string, error) {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", o.listen[to]), time.Minute)
	if err != nil {
		return "", err
	}
	defer c.Close()
	must(o.t, c.SetDeadline(time.Now().Add(time.Minute)))
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return "", err
	}
	name, err := bufio.NewReader(c).ReadString('\n')
	if err != nil && !(errors.Is(err, io.EOF) && name != "") {
		return "", err
	}
	return strings.TrimSpace(name), nil
}

// access is the newest line of a case in web's access log.
func (o *oracle) access(id string) []string {
	var out []string
	o.eventually("case "+id+" is logged", func() bool {
		text, _ := os.ReadFile(o.log)
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 0 && f[0] == id {
				out = f
			}
		}
		return out != nil
	})
	return out
}

// denials are what the servers logged of those.
func (o *oracle) denials() []string {
	var out []string
	for _, s := range o.servers {
		text, _ := os.ReadFile(s.envoy.log)
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "] denied ") {
				out = append(out, line)
			}
		}
	}
	return out
}
