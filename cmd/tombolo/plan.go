package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/global/api"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
)

// Exit codes of plan, which are those of kubectl diff: 1 says that there is a
// difference, and more than 1 that something failed.
const (
	exitDifferent  = 1
	exitPlanFailed = 2
)

// unchanged is what becomes of a document that says what is there.
const unchanged = "unchanged"

// asEnvoy prints the difference of Envoy's resources too.
const asEnvoy = "envoy"

func planCommand() *cobra.Command {
	var files, zones []string
	var erase bool
	output := string(asTable)
	cmd := &cobra.Command{
		Use:   "plan -f FILE|DIR|-",
		Short: "Show what a change would do to every proxy of every zone, before it is made",
		Long: `Every zone compiles the change beside what is in force, and says what would be another: who
may call whom, which route, which timeout, what can be reached, with the number of proxies and
the policy behind each line. Nothing that a proxy has moves. Zones that cannot answer, since
they are offline or of an older version, are named.

+ is there afterwards, - is gone, ~ is another than before; what lets more callers in is
marked "widens". With -o envoy the difference of Envoy's resources follows each group.

Exit codes: 0 nothing would be written; 1 something would, whether or not every zone answered;
2 wrong usage, or the change is refused; 4 nothing would be written as far as is known, but a
zone did not answer; 5 global cannot be reached.`,
		Example: `  tombolo plan -f deny.yaml
  tombolo plan -f policies/ --zone east -o envoy
  tombolo plan -f deny.yaml --delete -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{string(asTable), string(asYAML), string(asJSON), asEnvoy}, output) {
				return &exitError{exitUsage, fmt.Sprintf("-o must be table, yaml, json or envoy, not %q", output)}
			}
			sources, err := readSources(files, cmd.InOrStdin())
			if err != nil {
				return planFailed(err)
			}
			body, places, err := bundle(sources)
			if err != nil {
				return planFailed(err)
			}
			c, err := dial(cmd)
			if err != nil {
				return planFailed(err)
			}
			query := url.Values{"zone": zones}
			if erase {
				query.Set("delete", "true")
			}
			if output == asEnvoy {
				query.Set("envoy", "true")
			}
			var out api.Planned
			err = c.call(cmd.Context(), http.MethodPost, "/plan", query, "application/yaml", body, &out)
			var r *refusal
			if errors.As(err, &r) {
				return &exitError{exitPlanFailed, refused(r, places)}
			}
			if err != nil {
				return planFailed(err)
			}
			how := format(output)
			if output == asEnvoy {
				how = asTable
			}
			w := cmd.OutOrStdout()
			if err := how.print(w, out, func() error { return planned{&out, output == asEnvoy}.show(w) }); err != nil {
				return planFailed(err)
			}
			return planOutcome(&out)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file, folder, or - for standard input; may be repeated")
	cmd.Flags().BoolVar(&erase, "delete", false, "show what deleting these resources would do")
	cmd.Flags().StringArrayVar(&zones, "zone", nil, "ask this zone alone; may be repeated")
	cmd.Flags().StringVarP(&output, "output", "o", output, "table, yaml, json or envoy")
	return cmd
}

// planFailed keeps 1 for a difference.
func planFailed(err error) error {
	var exit *exitError
	if errors.As(err, &exit) && exit.code != exitFailed {
		return err
	}
	return &exitError{exitPlanFailed, err.Error()}
}

func planOutcome(p *api.Planned) error {
	if slices.ContainsFunc(p.Results, func(r api.Result) bool { return r.Action != unchanged }) {
		return &exitError{exitDifferent, ""}
	}
	if len(p.Unanswered) > 0 {
		return &exitError{exitTimeout, ""}
	}
	return nil
}

// planned says a preview to people.
type planned struct {
	*api.Planned
	envoy bool
}

func (p planned) show(w io.Writer) error {
	for _, r := range p.Results {
		would := "would be "
		if r.Action == unchanged {
			would = "is "
		}
		fmt.Fprintf(w, "%s %s%s\n", label(mesh.Key{Kind: r.Kind, Mesh: r.Mesh, Name: r.Name}), would, r.Action)
	}
	for _, text := range p.Warnings {
		fmt.Fprintf(w, "warning: %s\n", text)
	}
	affected := 0
	for i := range p.Zones {
		affected += p.Zones[i].Affected
		p.zone(w, &p.Zones[i])
	}
	for _, u := range p.Unanswered {
		fmt.Fprintf(w, "\nzone %s: nothing is known, %s\n", u.Zone, u.Reason)
	}
	total := len(p.Zones) + len(p.Unanswered)
	known := ""
	if len(p.Unanswered) > 0 {
		known = ", as far as is known"
	}
	_, err := fmt.Fprintf(w, "\n%s would change%s; %d of %s answered\n", count(affected, "proxy", "proxies"), known, len(p.Zones), count(total, "zone", "zones"))
	return err
}

func (p planned) zone(w io.Writer, z *zonesync.Preview) {
	if len(z.Effects)+len(z.Shared)+len(z.Problems)+len(z.Tells) == 0 {
		fmt.Fprintf(w, "\nzone %s: no effect\n", z.Zone)
		return
	}
	fmt.Fprintf(w, "\nzone %s: %d of %s\n", z.Zone, z.Affected, count(z.Proxies, "proxy", "proxies"))
	for _, e := range z.Effects {
		fmt.Fprintf(w, "  %s\n", who(e))
		effectLines(w, "    ", e.Lines)
		if p.envoy {
			envoyLines(w, e.Envoy)
		}
	}
	for _, s := range z.Shared {
		fmt.Fprintf(w, "  all proxies of mesh %s\n", s.Mesh)
		effectLines(w, "    ", s.Lines)
	}
	for _, x := range z.Problems {
		about := ""
		if x.Proxies > 0 {
			about = ", " + count(x.Proxies, "proxy", "proxies")
		}
		fmt.Fprintf(w, "  ! %s: %s%s\n", label(mesh.Key{Kind: x.Kind, Mesh: x.Mesh, Name: x.Name}), x.Reason, about)
	}
	if len(z.Tells) > 0 {
		const most = 5
		more := ""
		if n := len(z.Tells) - most; n > 0 {
			more = fmt.Sprintf(" and %d more", n)
		}
		fmt.Fprintf(w, "  other zones would be told otherwise of %s%s; what follows there is not previewed\n", strings.Join(z.Tells[:min(most, len(z.Tells))], ", "), more)
	}
	if z.Omitted > 0 {
		fmt.Fprintf(w, "  and %d more\n", z.Omitted)
	}
}

// who is "12 proxies of web, mesh default", or of several workloads.
func who(e zonesync.PlannedEffect) string {
	const most = 6
	var names []string
	for _, x := range e.Workloads[:min(most, len(e.Workloads))] {
		name := x.Name
		if len(e.Workloads) > 1 {
			name += fmt.Sprintf(" (%d)", x.Proxies)
		}
		names = append(names, name)
	}
	if n := len(e.Workloads) - most; n > 0 {
		names = append(names, fmt.Sprintf("%d more workloads", n))
	}
	what := count(e.Proxies, "proxy", "proxies")
	if e.Role == "ingress" {
		what = count(e.Proxies, "ingress", "ingresses")
	}
	return fmt.Sprintf("%s of %s, mesh %s", what, strings.Join(names, ", "), e.Mesh)
}

// effectLines prints lines below the place that they speak of.
func effectLines(w io.Writer, indent string, lines []effect.Line) {
	last := ""
	for _, l := range lines {
		at := places(l.At)
		if at != last && at != "" {
			fmt.Fprintf(w, "%s%s\n", indent, at)
		}
		last = at
		in := indent
		if at != "" {
			in += "  "
		}
		bearing := ""
		if l.Bearing != effect.Alters {
			bearing = "  [" + string(l.Bearing) + "]"
		}
		fmt.Fprintf(w, "%s%s %s%s\n", in, l.Sign, l.Text, bearing)
		for _, c := range l.Causes {
			fmt.Fprintf(w, "%s    by %s\n", in, c)
		}
	}
}

// places are shortened: a timeout of all calls has one for each service.
func places(at []string) string {
	const most = 4
	if n := len(at) - most; n > 0 {
		return strings.Join(at[:most], ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(at, ", ")
}

func envoyLines(w io.Writer, diffs []zonesync.ResourceDiff) {
	for _, d := range diffs {
		fmt.Fprintf(w, "    %s %s %s\n", d.Sign, d.TypeURL[strings.LastIndexByte(d.TypeURL, '.')+1:], d.Name)
		for line := range strings.Lines(d.Diff) {
			fmt.Fprintf(w, "      %s", line)
		}
	}
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
