package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir/explain"
)

// inspection is one thing that can be asked of a proxy.
type inspection struct {
	// path is the last part of the URL.
	path string
	// table shows it to people; nil where only the raw answer makes sense.
	table func(body []byte) ([][]string, error)
	// text: the raw answer is lines "name: value".
	text bool
}

func inspections() map[string]inspection {
	return map[string]inspection{
		"config":    {path: "xds"},
		"clusters":  {path: "clusters", table: clustersTable},
		"stats":     {path: "stats", text: true},
		"listeners": {path: "listeners", table: listenersTable},
		"certs":     {path: "certs", table: certsTable},
		"policies":  {path: "policies"},
	}
}

func inspectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect",
		Short: "Show what a proxy of any zone has, and whom a policy reaches",
		Example: `  tombolo inspect dataplane web-1.east clusters
  tombolo inspect policy meshtimeout/slow`,
	}
	cmd.AddCommand(inspectDataplaneCommand(), inspectPolicyCommand())
	return cmd
}

func inspectDataplaneCommand() *cobra.Command {
	var meshName, zone string
	var output format
	cmd := &cobra.Command{
		Use:     "dataplane NAME config|clusters|stats|listeners|certs|policies",
		Aliases: []string{"dp", "dataplanes"},
		Short:   "Show what an Envoy of any zone has",
		Long: `Asks the zone of a dataplane, through global: config, clusters, stats, listeners and certs are what
its Envoy answers, policies is what the zone compiled for it, with the line behind everything.
clusters, listeners and certs are tables unless -o says json or yaml; config and policies are
JSON by nature, stats is text unless -o says json or yaml. The dataplane of a pod has its
name: web-0.shop, or shop/web-0.

Exit codes: 0 it answered; 1 there is no such dataplane; 2 wrong usage; 5 global, the zone of the
dataplane or its proxy cannot be reached.`,
		Example: `  tombolo inspect dataplane web-1.east clusters
  tombolo inspect dp web-1 certs --zone east -o json
  tombolo inspect dp shop/web-0 listeners --zone east
  tombolo inspect dp web-1.east config | jq .
  tombolo inspect dp web-1.east policies | jq '.Inbounds[].Permission'`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			what, ok := inspections()[args[1]]
			if !ok {
				return &exitError{exitUsage, "the last argument must be config, clusters, stats, listeners, certs or policies, not " + args[1]}
			}
			name := args[0]
			if namespace, pod, ok := strings.Cut(name, "/"); ok { // as kubectl says it
				name = mesh.NamespacedName(pod, namespace)
			}
			if zone != "" && !strings.HasSuffix(name, "."+zone) {
				name += "." + zone
			}
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			path := "/meshes/" + url.PathEscape(meshName) + "/dataplanes/" + url.PathEscape(name) + "/" + what.path
			resp, err := c.open(cmd.Context(), http.MethodGet, path, nil, "", nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if output == asJSON && !what.text || output == asTable && what.table == nil {
				_, err = io.Copy(cmd.OutOrStdout(), resp.Body)
				return err
			}
			body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
			if err != nil {
				return unreachable(err)
			}
			if what.text {
				return output.print(cmd.OutOrStdout(), statistics(body), nil)
			}
			if output == asYAML {
				out, err := yaml.JSONToYAML(body)
				if err != nil {
					return fmt.Errorf("read answer: %w", err)
				}
				_, err = cmd.OutOrStdout().Write(out)
				return err
			}
			rows, err := what.table(body)
			if err != nil {
				return fmt.Errorf("read answer: %w", err)
			}
			return table(cmd.OutOrStdout(), rows)
		},
	}
	meshFlag(cmd, &meshName)
	outputFlag(cmd, &output)
	cmd.Flags().StringVar(&zone, "zone", "", "zone of the dataplane; or name it <name>.<zone>")
	return cmd
}

// statistics reads the lines "name: value" of /stats.
func statistics(body []byte) map[string]any {
	all := map[string]any{}
	for line := range strings.Lines(string(body)) {
		name, text, found := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			all[name] = n
		} else if found {
			all[name] = strings.Trim(text, `"`)
		}
	}
	return all
}

// clustersTable shows the hosts of /clusters?format=json.
func clustersTable(body []byte) ([][]string, error) {
	var list struct {
		Clusters []struct {
			Name  string `json:"name"`
			Hosts []struct {
				Address struct {
					Socket struct {
						Address string `json:"address"`
						Port    uint32 `json:"port_value"`
					} `json:"socket_address"`
					Pipe struct {
						Path string `json:"path"`
					} `json:"pipe"`
					Internal struct {
						Endpoint string `json:"endpoint_id"`
					} `json:"envoy_internal_address"`
				} `json:"address"`
				Stats []struct {
					Name  string          `json:"name"`
					Value json.RawMessage `json:"value"`
				} `json:"stats"`
				Health   map[string]any `json:"health_status"`
				Weight   uint32         `json:"weight"`
				Priority uint32         `json:"priority"`
				Locality struct {
					Zone string `json:"zone"`
				} `json:"locality"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	rows := [][]string{{"CLUSTER", "HOST", "ZONE", "PRIORITY", "WEIGHT", "HEALTH", "REQUESTS", "FAILED CONNECTIONS"}}
	for _, c := range list.Clusters {
		if len(c.Hosts) == 0 {
			rows = append(rows, []string{c.Name, "-", "-", "-", "-", "no hosts", "-", "-"})
		}
		for _, h := range c.Hosts {
			host := h.Address.Pipe.Path
			switch {
			case h.Address.Internal.Endpoint != "":
				host = "gateway to " + h.Address.Internal.Endpoint
			case h.Address.Socket.Address != "":
				host = fmt.Sprintf("%s:%d", h.Address.Socket.Address, h.Address.Socket.Port)
			}
			stat := func(name string) string {
				for _, s := range h.Stats {
					if s.Name == name {
						return strings.Trim(string(s.Value), `"`)
					}
				}
				return "0"
			}
			rows = append(rows, []string{c.Name, host, orDash(h.Locality.Zone), fmt.Sprint(h.Priority), fmt.Sprint(h.Weight), healthText(h.Health),
				orZero(stat("rq_total")), orZero(stat("cx_connect_fail"))})
		}
	}
	return rows, nil
}

func orZero(s string) string {
	if s == "" {
		return "0"
	}
	return s
}

// healthText lists what is wrong with a host.
func healthText(health map[string]any) string {
	var out []string
	for k, v := range health {
		if failed, ok := v.(bool); ok && failed {
			out = append(out, strings.ReplaceAll(strings.TrimPrefix(k, "failed_"), "_", " ")+" failed")
		}
	}
	if s, ok := health["eds_health_status"].(string); ok && s != "HEALTHY" && s != "UNKNOWN" {
		out = append(out, strings.ToLower(s))
	}
	slices.Sort(out)
	if len(out) == 0 {
		return "healthy"
	}
	return strings.Join(out, ", ")
}

func listenersTable(body []byte) ([][]string, error) {
	var list struct {
		Listeners []struct {
			Name  string `json:"name"`
			Local struct {
				Socket struct {
					Address string `json:"address"`
					Port    uint32 `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	rows := [][]string{{"LISTENER", "ADDRESS"}}
	for _, l := range list.Listeners {
		at := "-"
		if s := l.Local.Socket; s.Address != "" {
			at = fmt.Sprintf("%s:%d", s.Address, s.Port)
		}
		rows = append(rows, []string{l.Name, at})
	}
	return rows, nil
}

func certsTable(body []byte) ([][]string, error) {
	type certificate struct {
		Serial string `json:"serial_number"`
		Names  []struct {
			URI string `json:"uri"`
			DNS string `json:"dns"`
		} `json:"subject_alt_names"`
		From  string `json:"valid_from"`
		Until string `json:"expiration_time"`
	}
	var list struct {
		Certificates []struct {
			CA    []certificate `json:"ca_cert"`
			Chain []certificate `json:"cert_chain"`
		} `json:"certificates"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	rows := [][]string{{"USE", "NAME", "SERIAL", "FROM", "UNTIL"}}
	add := func(use string, all []certificate) {
		for _, c := range all {
			var names []string
			for _, n := range c.Names {
				names = append(names, n.URI+n.DNS)
			}
			row := []string{use, orDash(strings.Join(names, ", ")), c.Serial, c.From, c.Until}
			if !slices.ContainsFunc(rows, func(r []string) bool { return slices.Equal(r, row) }) {
				rows = append(rows, row)
			}
		}
	}
	for _, c := range list.Certificates {
		add("proves", c.Chain)
		add("believes", c.CA)
	}
	return rows, nil
}

func inspectPolicyCommand() *cobra.Command {
	var meshName string
	var output format
	cmd := &cobra.Command{
		Use:   "policy KIND/NAME",
		Short: "Show which proxies a policy reaches and what it gave them",
		Long: `Asks every zone which of its proxies have something of a policy: how many, the names of some, and
what it is, place by place, with the line of the policy behind it; or why it reaches nobody. It is
read from what the zones compiled.

Exit codes: 0 every zone answered; 4 some did not, since they are offline or of an older version:
they are named, and nothing is known of them.`,
		Example: `  tombolo inspect policy meshtimeout/slow
  tombolo inspect policy meshtrafficpermission/allow-web -o yaml`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, name, ok := strings.Cut(args[0], "/")
			if len(args) == 2 {
				kind, name, ok = args[0], args[1], true
			}
			k, err := kindOf(kind)
			if err != nil {
				return err
			}
			if !ok || name == "" || k.Policy == nil {
				return &exitError{exitUsage, "say KIND/NAME of a policy, such as meshtimeout/slow"}
			}
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			var out explain.Reach
			if err := c.get(cmd.Context(), pathOf(k, meshName, name)+"/reach", nil, &out); err != nil {
				return err
			}
			if err := output.print(cmd.OutOrStdout(), out, func() error { return printReach(cmd.OutOrStdout(), &out) }); err != nil {
				return err
			}
			if slices.ContainsFunc(out.Zones, func(z explain.ZoneReach) bool { return z.Unanswered != "" }) {
				return &exitError{exitTimeout, ""}
			}
			return nil
		},
	}
	meshFlag(cmd, &meshName)
	outputFlag(cmd, &output)
	return cmd
}

func printReach(w io.Writer, r *explain.Reach) error {
	p := &page{}
	name := label(mesh.Key{Kind: r.Kind, Mesh: r.Mesh, Name: r.Name})
	known := ""
	if slices.ContainsFunc(r.Zones, func(z explain.ZoneReach) bool { return z.Unanswered != "" }) {
		known = ", as far as is known"
	}
	p.line(0, "%s, revision %d: reaches %s%s", name, r.Revision, proxies(r.Proxies), known)
	for _, z := range r.Zones {
		p.line(0, "")
		switch {
		case z.Unanswered != "":
			p.line(0, "%s: nothing is known of it", z.Unanswered)
			continue
		case z.Proxies == 0:
			p.line(0, "zone %s: reaches nobody, because %s", z.Zone, z.Nobody)
		default:
			p.line(0, "zone %s: %s (zone at revision %d)", z.Zone, proxies(z.Proxies), z.At)
		}
		for _, c := range z.Classes {
			names := strings.Join(c.Names, ", ")
			if more := c.Proxies - len(c.Names); more > 0 {
				names += fmt.Sprintf(" and %d more", more)
			}
			p.line(1, "%s of %s: %s", proxies(c.Proxies), orDash(c.Workload), names)
			for _, g := range c.Gave {
				p.line(2, "%s: %s", g.At, g.Text)
				if g.Path != "" {
					p.line(3, "by %s", g.Path)
				}
			}
		}
		for _, problem := range z.Problems {
			p.line(1, "problem: %s", problem)
		}
	}
	_, err := io.WriteString(w, p.b.String())
	return err
}
