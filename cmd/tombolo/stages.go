package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/global/api"
)

// rolloutPoll is how often a rollout is asked about.
const rolloutPoll = 500 * time.Millisecond

// stagesOptions are the flags of a staged apply.
type stagesOptions struct {
	stages, abortOn []string
	name            string
	pause           time.Duration
}

func (s *stagesOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&s.stages, "stages", nil, "zones in order, as east,west; several at once with +, as east+west,north")
	f.DurationVar(&s.pause, "pause", 0, "with --stages: that a stage lasts at least")
	f.StringSliceVar(&s.abortOn, "abort-on", nil, "with --stages: return everything on this: rejected>N or gone>N proxies, success<P percent of the calls of a service, and fewer than before")
	f.StringVar(&s.name, "rollout", "", "with --stages: name of the rollout (default made of the revision)")
}

// set says whether the apply is staged.
func (s *stagesOptions) set(cmd *cobra.Command) bool { return cmd.Flags().Changed("stages") }

func (s *stagesOptions) apply(cmd *cobra.Command, c *client, query url.Values, body []byte, places []place, files []string, o format, wait time.Duration) error {
	query.Set("stages", strings.Join(s.stages, ","))
	query.Set("pause", s.pause.String())
	query.Set("abortOn", strings.Join(s.abortOn, ","))
	if s.name != "" {
		query.Set("name", s.name)
	}
	var out api.RolloutView
	start := func() error {
		return c.call(cmd.Context(), http.MethodPost, "/rollouts", query, "application/yaml", body, &out)
	}
	err := start()
	if weak := weakens(err); weak != nil {
		if err := ask(cmd, weak, files); err != nil {
			return err
		}
		query.Set("weakening", "accept")
		err = start()
	}
	var r *refusal
	if errors.As(err, &r) && r.Status == http.StatusUnprocessableEntity {
		return &exitError{exitFailed, refused(r, places)}
	}
	if err != nil {
		return err
	}
	for _, w := range out.Warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning: "+w)
	}
	if wait > 0 && query.Get("dryRun") == "" {
		if o == asTable {
			fmt.Fprintf(cmd.OutOrStdout(), "rollout %s\n", out.Name)
		}
		return awaitRollout(cmd, c, out.Name, o, wait)
	}
	return o.print(cmd.OutOrStdout(), out, func() error {
		if query.Get("dryRun") != "" {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "nothing was written (dry run)")
			return err
		}
		return showRollout(cmd.OutOrStdout(), out)
	})
}

// staged says whether an argument names a rollout and no revision.
func staged(arg string) bool {
	_, err := strconv.ParseInt(arg, 10, 64)
	return err != nil
}

func rolloutPath(name string) string { return "/rollouts/" + url.PathEscape(name) }

// stagesOf writes stages as --stages takes them.
func stagesOf(r api.RolloutView) string {
	var out []string
	for _, zones := range r.Stages {
		out = append(out, strings.Join(zones, "+"))
	}
	return strings.Join(out, ",")
}

func showRollout(to io.Writer, r api.RolloutView) error {
	fmt.Fprintf(to, "rollout %s by %s: %s\n", r.Name, r.Author, stageOf(r))
	fmt.Fprintf(to, "stages %s, pause %s", stagesOf(r), r.Pause)
	if len(r.AbortOn) > 0 {
		fmt.Fprintf(to, ", aborted on %s", strings.Join(r.AbortOn, ", "))
	}
	fmt.Fprintln(to)
	for _, x := range r.Resources[:min(len(r.Resources), 10)] {
		fmt.Fprintln(to, x)
	}
	if more := len(r.Resources) - 10; more > 0 {
		fmt.Fprintf(to, "… and %d more\n", more)
	}
	for _, note := range r.Notes {
		fmt.Fprintln(to, "note: "+note)
	}
	if err := showZones(to, api.Write{Zones: r.Zones}); err != nil || len(r.Success) == 0 {
		return err
	}
	fmt.Fprintln(to)
	rows := [][]string{{"SERVICE", "ZONE", "CALLS", "FAILED", "SUCCESS", "BEFORE"}}
	percent := func(p float64) string { return strconv.FormatFloat(math.Floor(p*10)/10, 'f', -1, 64) + "%" }
	for _, x := range r.Success {
		success := "too few calls"
		if x.Counts {
			success = percent(x.Percent)
		}
		before := ""
		if x.Before != nil {
			before = percent(*x.Before)
		}
		rows = append(rows, []string{x.Service, x.Zone, strconv.FormatUint(x.Calls, 10), strconv.FormatUint(x.Failed, 10), success, before})
	}
	return table(to, rows)
}

// stageOf says in a line how a rollout stands.
func stageOf(r api.RolloutView) string {
	text := fmt.Sprintf("%s, stage %d of %d", r.Phase, r.Stage, len(r.Stages))
	if r.Stage == 0 {
		text = fmt.Sprintf("%s, before stage 1 of %d", r.Phase, len(r.Stages))
	}
	switch {
	case r.Reason != "":
		text += ": " + strings.Join(strings.Fields(r.Reason), " ")
	case r.Waiting != "":
		text += ": " + r.Waiting
	}
	return text
}

// awaitRollout follows a rollout to its end: 3 when it was aborted, 4 when the
// time is over.
func awaitRollout(cmd *cobra.Command, c *client, name string, o format, limit time.Duration) error {
	to := cmd.OutOrStdout()
	end := time.NewTimer(limit)
	defer end.Stop()
	tick := time.NewTicker(rolloutPoll)
	defer tick.Stop()
	last := ""
	for {
		var r api.RolloutView
		err := c.get(cmd.Context(), rolloutPath(name), nil, &r)
		var gone *exitError
		switch {
		case errors.As(err, &gone) && gone.code == exitOffline: // global restarts; the rollout stays
		case err != nil:
			return err
		default:
			if what, rest, _ := strings.Cut(r.Waiting, ", "); strings.HasSuffix(rest, " left") { // it counts down
				r.Waiting = what
			}
			line := stageOf(r)
			if line != last && o == asTable {
				fmt.Fprintln(to, line)
			}
			last = line
			if r.Phase != "running" {
				if o != asTable {
					if err := o.print(to, r, nil); err != nil {
						return err
					}
				}
				if r.Phase == "aborted" {
					return &exitError{exitRejected, fmt.Sprintf("rollout %s was aborted: %s", name, r.Reason)}
				}
				return nil
			}
		}
		select {
		case <-cmd.Context().Done():
			return &exitError{exitInterrupted, "interrupted; the rollout goes on, to follow it: tombolo rollout status " + name + " --watch"}
		case <-end.C:
			return &exitError{exitTimeout, fmt.Sprintf("rollout %s goes on after %s: %s", name, limit, last)}
		case <-tick.C:
		}
	}
}

func rolloutMoveCommand(verb, short, long string) *cobra.Command {
	var o format
	var yes bool
	cmd := &cobra.Command{
		Use: verb + " NAME", Short: short, Long: long,
		Example: "  tombolo rollout " + verb + " retries",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			query := url.Values{}
			if verb == "abort" {
				query.Set("weakening", "refuse")
				if yes {
					query.Set("weakening", "warn")
				}
			}
			var out api.RolloutView
			move := func() error {
				return c.call(cmd.Context(), http.MethodPost, rolloutPath(args[0])+"/"+verb, query, "", nil, &out)
			}
			err = move()
			if weak := weakens(err); weak != nil {
				if err := ask(cmd, weak, nil); err != nil {
					return err
				}
				query.Set("weakening", "accept")
				err = move()
			}
			if err != nil {
				return err
			}
			for _, w := range out.Warnings {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning: "+w)
			}
			return o.print(cmd.OutOrStdout(), out, func() error { return showRollout(cmd.OutOrStdout(), out) })
		},
	}
	if verb == "abort" {
		cmd.Flags().BoolVarP(&yes, "yes", "y", false, "abort without asking when callers that the change shuts out are let in again; it is said all the same")
	}
	outputFlag(cmd, &o)
	return cmd
}

func getRollouts(cmd *cobra.Command, c *client, o format) error {
	var out api.RolloutList
	if err := c.get(cmd.Context(), "/rollouts", nil, &out); err != nil {
		return err
	}
	return o.print(cmd.OutOrStdout(), out, func() error {
		rows := [][]string{{"NAME", "AGE", "AUTHOR", "STAGES", "STATE"}}
		for _, r := range out.Items {
			rows = append(rows, []string{r.Name, age(r.Created), r.Author, stagesOf(r), stageOf(r)})
		}
		return table(cmd.OutOrStdout(), rows)
	})
}
