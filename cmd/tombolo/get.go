package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/global/api"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// maxListed bounds how many resources a list shows.
const maxListed = 100_000

type getOptions struct {
	output     format
	mesh, name string
	all        bool
	labels     []string
	limit      int
	facts      bool
}

func getCommand() *cobra.Command {
	var o getOptions
	cmd := &cobra.Command{
		Use:   "get KIND [NAME]",
		Short: "Show resources, zones, changes or instances of global",
		Long: `Shows resources of a kind, named by plural, singular or short form. "get zones" shows how
every zone is, "get changes" the newest changes, "get rollouts" the staged ones, "get instances" the instances of global that
share a database. What -o yaml prints can be applied again.`,
		Example: `  tombolo get meshes
  tombolo get dp -m default
  tombolo get meshtimeout web -o yaml
  tombolo get dataplanes -A -l tombolo.io/zone=east
  tombolo get zones
  tombolo get changes --limit 20
  tombolo get rollouts
  tombolo get instances`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.limit < 1 || o.limit > maxListed {
				return &exitError{exitUsage, fmt.Sprintf("--limit must be from 1 to %d", maxListed)}
			}
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			if args[0] == "changes" || args[0] == "change" {
				return getChanges(cmd, c, o, args[1:])
			}
			if args[0] == "rollouts" && len(args) == 1 {
				return getRollouts(cmd, c, o.output)
			}
			if args[0] == "instances" && len(args) == 1 {
				return getInstances(cmd, c, o)
			}
			k, err := kindOf(args[0])
			if err != nil {
				return err
			}
			switch {
			case len(args) == 2:
				return getOne(cmd, c, o, k, args[1])
			case k.Name == mesh.KindZone && o.output == asTable:
				return getZones(cmd, c)
			}
			return getList(cmd, c, o, k)
		},
	}
	f := cmd.Flags()
	meshFlag(cmd, &o.mesh)
	outputFlag(cmd, &o.output)
	f.BoolVarP(&o.all, "all-meshes", "A", false, "resources of every mesh")
	f.StringVar(&o.name, "name", "", "only those whose name contains this")
	f.StringArrayVarP(&o.labels, "label", "l", nil, "only those with this label, key=value; may be repeated")
	f.BoolVar(&o.facts, "facts", false, "of changes, also what zones told")
	f.IntVar(&o.limit, "limit", 1000, "most to show")
	return cmd
}

func getOne(cmd *cobra.Command, c *client, o getOptions, k mesh.Kind, name string) error {
	var raw json.RawMessage
	if err := c.get(cmd.Context(), pathOf(k, o.mesh, name), nil, &raw); err != nil {
		return err
	}
	return show(cmd.OutOrStdout(), o, k, []json.RawMessage{raw})
}

func getList(cmd *cobra.Command, c *client, o getOptions, k mesh.Kind) error {
	if o.all {
		o.mesh = ""
	}
	query := url.Values{"size": {strconv.Itoa(min(o.limit, 1000))}}
	if o.name != "" {
		query.Set("name", o.name)
	}
	for _, l := range o.labels {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" {
			return &exitError{exitUsage, fmt.Sprintf("--label must be key=value, not %q", l)}
		}
		query.Set("filter[labels."+key+"]", value)
	}
	var items []json.RawMessage
	for {
		query.Set("offset", strconv.Itoa(len(items)))
		var page api.List
		if err := c.get(cmd.Context(), pathOf(k, o.mesh, ""), query, &page); err != nil {
			return err
		}
		items = append(items, page.Items...)
		if len(items) >= o.limit {
			items = items[:o.limit]
			if page.Total > o.limit {
				fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d; --limit shows more\n", o.limit, page.Total)
			}
			break
		}
		if page.Next == nil || len(page.Items) == 0 {
			break
		}
	}
	return show(cmd.OutOrStdout(), o, k, items)
}

// listed is what a table shows of a resource.
type listed struct {
	Mesh    string            `json:"mesh"`
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels"`
	Created time.Time         `json:"creationTime"`
	Status  struct {
		Connected *bool                 `json:"connected"`
		Problems  []api.ReportedProblem `json:"problems"`
	} `json:"status"`
}

func show(w io.Writer, o getOptions, k mesh.Kind, items []json.RawMessage) error {
	if o.output != asTable {
		return printAll(w, o.output, items)
	}
	rows := [][]string{{"NAME", "ZONE", "AGE", "PROBLEMS"}}
	if k.Scope == mesh.ScopeMesh {
		rows[0] = append([]string{"MESH"}, rows[0]...)
	}
	if k.Name == mesh.KindDataplane {
		rows[0] = append(rows[0], "CONNECTED")
	}
	for _, raw := range items {
		var r listed
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		problems := "-"
		if len(r.Status.Problems) > 0 {
			first := r.Status.Problems[0]
			where := first.Zone
			if first.Quarantined {
				where += " (quarantined)"
			}
			if first.Path != "" {
				where += ": " + first.Path
			}
			problems = where + ": " + strings.Join(strings.Fields(first.Reason), " ")
			if more := len(r.Status.Problems) - 1; more > 0 {
				problems += fmt.Sprintf(" (and %d more)", more)
			}
		}
		row := []string{r.Name, orDash(r.Labels[mesh.LabelZone]), age(r.Created), problems}
		if k.Scope == mesh.ScopeMesh {
			row = append([]string{r.Mesh}, row...)
		}
		if k.Name == mesh.KindDataplane {
			row = append(row, strconv.FormatBool(r.Status.Connected != nil && *r.Status.Connected))
		}
		rows = append(rows, row)
	}
	return table(w, rows)
}

func printAll(w io.Writer, output format, items []json.RawMessage) error {
	for i, raw := range items {
		var out bytes.Buffer
		if output == asJSON {
			if err := json.Indent(&out, raw, "", "  "); err != nil {
				return fmt.Errorf("read answer: %w", err)
			}
			out.WriteByte('\n')
		} else {
			if i > 0 {
				out.WriteString("---\n")
			}
			data, err := yaml.JSONToYAML(raw)
			if err != nil {
				return fmt.Errorf("read answer: %w", err)
			}
			out.Write(data)
		}
		if _, err := w.Write(out.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

func getZones(cmd *cobra.Command, c *client) error {
	var out api.ZoneOverviews
	if err := c.get(cmd.Context(), "/zones/_overview", nil, &out); err != nil {
		return err
	}
	rows := [][]string{{"NAME", "STATE", "SINCE", "PROXIES", "REVISION", "PROBLEMS", "VERSION", "GLOBAL"}}
	for _, z := range out.Items {
		state := "offline"
		if z.Status.Online {
			state = "online"
		} else if len(z.Status.MayBeAt) > 0 {
			state = "unknown"
		}
		if !z.Enabled {
			state += ", disabled"
		}
		rows = append(rows, []string{z.Name, state, age(z.Status.Since), fmt.Sprintf("%d/%d", z.Status.Connected, z.Status.Total),
			strconv.FormatInt(z.Status.Applied, 10), strconv.Itoa(len(z.Status.Problems)), orDash(z.Status.Version), orDash(z.Status.Global)})
	}
	return table(cmd.OutOrStdout(), rows)
}

func getInstances(cmd *cobra.Command, c *client, o getOptions) error {
	var out api.InstanceList
	if err := c.get(cmd.Context(), "/instances", nil, &out); err != nil {
		return err
	}
	if o.output != "table" {
		data, err := json.Marshal(out.Items)
		if err != nil {
			return err
		}
		return printAll(cmd.OutOrStdout(), o.output, []json.RawMessage{data})
	}
	rows := [][]string{{"INSTANCE", "STATE", "SINCE", "ADDRESS", "VERSION", "ERROR"}}
	for _, i := range out.Items {
		state := "not reached"
		switch {
		case i.Self:
			state = "answers"
		case i.Connected:
			state = "connected"
		}
		rows = append(rows, []string{i.ID, state, age(i.Since), i.Address, orDash(i.Version), orDash(i.Error)})
	}
	return table(cmd.OutOrStdout(), rows)
}

func getChanges(cmd *cobra.Command, c *client, o getOptions, args []string) error {
	if len(args) == 1 {
		var raw json.RawMessage
		if err := c.get(cmd.Context(), "/changes/"+url.PathEscape(args[0]), nil, &raw); err != nil {
			return err
		}
		if o.output == asTable {
			o.output = asYAML
		}
		return printAll(cmd.OutOrStdout(), o.output, []json.RawMessage{raw})
	}
	return getWrites(cmd, c, o.output, o.limit, o.facts)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(int(d.Seconds()), 0))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
