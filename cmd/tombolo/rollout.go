package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/global/api"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// watchTime bounds `rollout status --watch`.
const watchTime = time.Hour

func rolloutCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollout",
		Short: "Follow, look back at, and undo changes",
		Long: `Changes are numbered by revision. What was applied together is one write: every revision
of it names the same.`,
		Example: `  tombolo rollout status 42 --watch
  tombolo rollout history meshtimeout web
  tombolo rollout undo 42 --wait`,
	}
	cmd.AddCommand(rolloutStatusCommand(), rolloutHistoryCommand(), rolloutUndoCommand(),
		rolloutMoveCommand("abort", "Return what a staged change did", "Every zone gets back what it had before the staged change. When that lets callers in whom the\nchange shuts out, it says so and asks; guards abort without asking."),
		rolloutMoveCommand("promote", "Leave out the rest of a stage's pause", "The next stage begins as soon as the zones before have the change; guards still hold.\nBefore the first stage it leaves out the rest of the counting of calls: success<P then\njudges by P alone what had fewer than 20 calls until now."))
	return cmd
}

func revisionOf(text string) (mesh.Revision, error) {
	rev, err := strconv.ParseInt(text, 10, 64)
	if err != nil || rev < 1 {
		return 0, &exitError{exitUsage, fmt.Sprintf("REVISION must be a number from 1, not %q", text)}
	}
	return mesh.Revision(rev), nil
}

func rolloutStatusCommand() *cobra.Command {
	var watch bool
	var o format
	cmd := &cobra.Command{
		Use:   "status REVISION|NAME",
		Short: "Show what a change was, and how far it came in every zone",
		Long: `For the name of a staged change it shows its stage, what it waits for, and its guards. For a
revision it shows who wrote it and when, what it changed, and for each zone whether it is done, behind,
rejected or offline, with the first of the proxies that are behind or reject it. With --watch
it stays until the change is everywhere. Exits 3 when a proxy rejects it, and with --watch
4 when a zone is behind or offline after an hour.`,
		Example: "  tombolo rollout status retries --watch\n  tombolo rollout status 42\n  tombolo rollout status 42 --watch\n  tombolo rollout status 42 -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			if staged(args[0]) {
				if watch {
					return awaitRollout(cmd, c, args[0], o, watchTime)
				}
				var out api.RolloutView
				if err := c.get(cmd.Context(), rolloutPath(args[0]), nil, &out); err != nil {
					return err
				}
				return o.print(cmd.OutOrStdout(), out, func() error { return showRollout(cmd.OutOrStdout(), out) })
			}
			rev, err := revisionOf(args[0])
			if err != nil {
				return err
			}
			var out api.Write
			read := func() error { return c.get(cmd.Context(), fmt.Sprintf("/changes/%d/write", rev), nil, &out) }
			if err := read(); err != nil {
				return err
			}
			to := cmd.OutOrStdout()
			if o == asTable {
				showWrite(to, out)
			}
			if watch {
				if _, err := await(cmd, c, max(out.First, out.Revision-63), out.Revision, o, watchTime, time.Time{}); err != nil {
					return err
				}
				if err := read(); err != nil {
					return err
				}
			} else if o == asTable {
				if err := showZones(to, out); err != nil {
					return err
				}
			}
			if o != asTable {
				if err := o.print(to, out, nil); err != nil {
					return err
				}
			}
			if out.State == sync.Rejected {
				return &exitError{exitRejected, fmt.Sprintf("revision %d is rejected", out.Revision)}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "stay until it is everywhere")
	outputFlag(cmd, &o)
	return cmd
}

// revisions of a write: "12" or "12-14".
func revisions(w api.Write) string {
	if w.First == w.Revision {
		return strconv.FormatInt(int64(w.Revision), 10)
	}
	return fmt.Sprintf("%d-%d", w.First, w.Revision)
}

func showWrite(to io.Writer, w api.Write) {
	fmt.Fprintf(to, "revision %s by %s, %s (%s ago)\n", revisions(w), w.Author, w.Time.Format(time.RFC3339), age(w.Time))
	for _, x := range w.Changes {
		showChanged(to, x)
	}
	if more := w.Total - len(w.Changes); more > 0 {
		fmt.Fprintf(to, "… and %d more\n", more)
	}
}

func showChanged(to io.Writer, x api.Changed) {
	fmt.Fprintf(to, "%s %s", label(keyOf(x)), x.Action)
	if x.Beyond {
		fmt.Fprint(to, "; what was before is no longer in the log")
	}
	fmt.Fprintln(to)
	for line := range strings.Lines(x.Diff) {
		fmt.Fprint(to, "    "+strings.TrimRight(line, "\n")+"\n")
	}
}

func keyOf(x api.Changed) mesh.Key {
	return mesh.Key{Kind: x.Kind, Mesh: x.Mesh, Zone: x.Zone, Name: x.Name}
}

func showZones(to io.Writer, w api.Write) error {
	if len(w.Zones) == 0 {
		fmt.Fprintln(to, "no zone has joined yet")
		return nil
	}
	rows := [][]string{{"ZONE", "STATE", "PROXIES", "DONE", "BEHIND", "REJECTED", "WHO"}}
	for _, z := range w.Zones {
		who := z.BehindNames
		for _, r := range z.Rejections {
			who = append(who, strings.TrimSpace(r.Proxy+" "+what(r)+": "+strings.Join(strings.Fields(r.Reason), " ")))
		}
		rows = append(rows, []string{z.Zone, string(z.State), strconv.Itoa(z.Affected), strconv.Itoa(z.Done), strconv.Itoa(z.Behind),
			strconv.Itoa(z.Rejected), orDash(strings.Join(who, ", "))})
	}
	return table(to, rows)
}

func rolloutHistoryCommand() *cobra.Command {
	var meshName string
	var limit int
	var o format
	cmd := &cobra.Command{
		Use:   "history [KIND NAME]",
		Short: "Show what was written, or every change of one resource with its difference",
		Long: `Without arguments it shows the newest writes. With a resource it shows each of its changes
with author, time and what differs from the one before, back to where the log begins: the log
is bounded by size and age (see tombolo global --help).`,
		Example: "  tombolo rollout history\n  tombolo rollout history meshtimeout web --limit 5\n  tombolo rollout history mtp web -m shop -o yaml",
		Args:    rangeOr(0, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > maxListed {
				return &exitError{exitUsage, fmt.Sprintf("--limit must be from 1 to %d", maxListed)}
			}
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return getWrites(cmd, c, o, limit, false)
			}
			k, err := kindOf(args[0])
			if err != nil {
				return err
			}
			query := url.Values{"kind": {string(k.Name)}, "name": {args[1]}}
			if k.Scope == mesh.ScopeMesh {
				query.Set("mesh", meshName)
			}
			var all api.ResourceHistory
			for len(all.Items) < limit {
				query.Set("size", strconv.Itoa(min(limit-len(all.Items), 1000)))
				var page api.ResourceHistory
				if err := c.get(cmd.Context(), "/changes/_history", query, &page); err != nil {
					return err
				}
				all.Items, all.Begins, all.Next = append(all.Items, page.Items...), page.Begins, page.Next
				if page.Next == nil || len(page.Items) == 0 {
					break
				}
				query.Set("before", strconv.FormatInt(int64(page.Items[len(page.Items)-1].Revision), 10))
			}
			to := cmd.OutOrStdout()
			return o.print(to, all, func() error {
				for _, x := range all.Items {
					when := ""
					if x.Time != nil {
						when = fmt.Sprintf(", %s (%s ago)", x.Time.Format(time.RFC3339), age(*x.Time))
					}
					fmt.Fprintf(to, "revision %d by %s%s\n", x.Revision, x.Author, when)
					showChanged(to, x)
				}
				if len(all.Items) == 0 {
					fmt.Fprintln(to, "the log has no change of it")
				}
				return ends(to, all.Begins, all.Next != nil)
			})
		},
	}
	meshFlag(cmd, &meshName)
	outputFlag(cmd, &o)
	cmd.Flags().IntVar(&limit, "limit", 20, "most to show")
	return cmd
}

// rangeOr wants one of two numbers of arguments.
func rangeOr(a, b int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != a && len(args) != b {
			return fmt.Errorf("%s takes %d or %d arguments, not %d", cmd.CommandPath(), a, b, len(args))
		}
		return nil
	}
}

// ends says where the log begins, or that there is more.
func ends(to io.Writer, begins mesh.Revision, more bool) error {
	text := "there is more; --limit shows it"
	switch {
	case !more && begins > 1:
		text = fmt.Sprintf("the log begins at revision %d; what is older was compacted", begins)
	case !more:
		return nil
	}
	_, err := fmt.Fprintln(to, text)
	return err
}

// getWrites shows the newest writes.
func getWrites(cmd *cobra.Command, c *client, o format, limit int, facts bool) error {
	var all api.WriteList
	query := url.Values{}
	if facts {
		query.Set("facts", "true")
	}
	for len(all.Items) < limit {
		query.Set("size", strconv.Itoa(min(limit-len(all.Items), 1000)))
		var page api.WriteList
		if err := c.get(cmd.Context(), "/changes/_writes", query, &page); err != nil {
			return err
		}
		all.Items, all.Begins, all.Next = append(all.Items, page.Items...), page.Begins, page.Next
		if page.Next == nil {
			break
		}
		next, err := url.Parse(*page.Next)
		if err != nil {
			return fmt.Errorf("the answer's next page: %w", err)
		}
		query.Set("before", next.Query().Get("before"))
	}
	to := cmd.OutOrStdout()
	return o.print(to, all, func() error {
		rows := [][]string{{"REVISION", "AGE", "AUTHOR", "WHAT", "STATE"}}
		for _, w := range all.Items {
			rows = append(rows, []string{revisions(w), age(w.Time), w.Author, whatOf(w), stateOf(w)})
		}
		if err := table(to, rows); err != nil {
			return err
		}
		return ends(to, all.Begins, all.Next != nil)
	})
}

// whatOf says in a few words what a write did.
func whatOf(w api.Write) string {
	var parts []string
	for _, x := range w.Changes[:min(len(w.Changes), 2)] {
		parts = append(parts, label(keyOf(x))+" "+x.Action)
	}
	if more := w.Total - len(parts); more > 0 {
		parts = append(parts, fmt.Sprintf("%d more", more))
	}
	return strings.Join(parts, ", ")
}

// stateOf names the zones that are not done.
func stateOf(w api.Write) string {
	var parts []string
	for _, z := range w.Zones {
		if z.State != sync.Done && len(parts) < 5 {
			parts = append(parts, z.Zone+" "+string(z.State))
		}
	}
	if len(parts) == 0 {
		return string(w.State)
	}
	return strings.Join(parts, ", ")
}

func rolloutUndoCommand() *cobra.Command {
	var dry, force, yes bool
	var wait time.Duration
	var o format
	cmd := &cobra.Command{
		Use:   "undo REVISION",
		Short: "Restore what was before a change, as a new change",
		Long: `Restores what the resources of a write were before it: what it created is deleted, what it
deleted is made again, what it updated is put back. All of it is one new change, which can be
undone in turn. It refuses when something was changed since, and says what; --force restores
that, too.`,
		Example: "  tombolo rollout undo 42 --dry-run\n  tombolo rollout undo 42 --wait",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rev, err := revisionOf(args[0])
			if err != nil {
				return err
			}
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			query := url.Values{"weakening": {"refuse"}}
			if dry {
				query.Set("dryRun", "true")
			}
			if dry || yes {
				query.Set("weakening", "warn")
			}
			if force {
				query.Set("force", "true")
			}
			var out api.Written
			began := time.Now()
			undo := func() error {
				return c.call(cmd.Context(), http.MethodPost, fmt.Sprintf("/changes/%d/undo", rev), query, "", nil, &out)
			}
			err = undo()
			if weak := weakens(err); weak != nil {
				if err := ask(cmd, weak, nil); err != nil {
					return err
				}
				query.Set("weakening", "accept")
				began = time.Now()
				err = undo()
			}
			var r *refusal
			if errors.As(err, &r) && len(r.Invalid) > 0 {
				lines := []string{r.Detail}
				for _, x := range r.Invalid {
					lines = append(lines, problemLine(x.Resource, "", "", x.Reason))
				}
				return &exitError{exitFailed, strings.Join(lines, "\n  ")}
			}
			if err != nil {
				return err
			}
			return finish(cmd, c, written{Written: out, DryRun: dry}, o, wait, began)
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would change, and write nothing")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "undo without asking what lets callers in that are refused now; it is said all the same")
	cmd.Flags().BoolVar(&force, "force", false, "restore also what was changed since")
	waitFlag(cmd, &wait)
	outputFlag(cmd, &o)
	return cmd
}
