package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
)

func waitCommand() *cobra.Command {
	var timeout time.Duration
	var from int64
	var o format
	cmd := &cobra.Command{
		Use:     "wait REVISION",
		Short:   "Wait until every affected proxy has a change",
		Long:    "Waits as `tombolo apply --wait` does, for a revision that was written before. Exits 3 when a proxy rejects it, 4 when the time is over.",
		Example: "  tombolo wait 42\n  tombolo wait 42 --from 40 --timeout 5m",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rev, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || rev < 1 {
				return &exitError{exitUsage, fmt.Sprintf("REVISION must be a number from 1, not %q", args[0])}
			}
			if from == 0 {
				from = rev
			}
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			status, failed := await(cmd, c, mesh.Revision(from), mesh.Revision(rev), o, timeout, time.Time{})
			if o == asTable {
				return failed
			}
			return errors.Join(o.print(cmd.OutOrStdout(), status, nil), failed)
		},
	}
	outputFlag(cmd, &o)
	cmd.Flags().DurationVar(&timeout, "timeout", defaultWait, "how long to wait")
	cmd.Flags().Int64Var(&from, "from", 0, "first revision of the write; default REVISION")
	return cmd
}

// view shows states as they come.
type view interface {
	show(sync.ChangeStatus)
	close()
}

// await follows a change until it is complete or the time is over. People are
// shown each new state, programs none.
func await(cmd *cobra.Command, c *client, first, last mesh.Revision, o format, timeout time.Duration, began time.Time) (sync.ChangeStatus, error) {
	if timeout <= 0 {
		return sync.ChangeStatus{}, &exitError{exitUsage, "the time to wait must be positive"}
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
	defer cancel()
	to := cmd.OutOrStdout()
	if o != asTable {
		to = io.Discard
	}
	var v view = &lines{w: to, last: map[string]string{}}
	if f, ok := to.(*os.File); ok && terminal(f) {
		v = newBars(f)
	}
	status, err := follow(ctx, c, first, last, timeout, v)
	v.close()
	if cmd.Context().Err() != nil {
		text := fmt.Sprintf("interrupted; the change stays, to wait on: tombolo wait %d", last)
		if first != last {
			text += fmt.Sprintf(" --from %d", first)
		}
		return status, &exitError{exitInterrupted, text}
	}
	if err != nil && ctx.Err() == nil {
		return status, err
	}
	return status, verdict(to, status, timeout, began)
}

// follow reads states; a connection that breaks is made again.
func follow(ctx context.Context, c *client, first, last mesh.Revision, timeout time.Duration, v view) (sync.ChangeStatus, error) {
	var status sync.ChangeStatus
	query := url.Values{"watch": {"true"}, "timeout": {timeout.String()}}
	if first != last {
		query.Set("from", strconv.FormatInt(int64(first), 10))
	}
	for {
		resp, err := c.open(ctx, http.MethodGet, fmt.Sprintf("/changes/%d/status", last), query, "", nil)
		if err != nil {
			return status, err
		}
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 4<<20)
		for lines.Scan() && !status.Complete {
			var next sync.ChangeStatus
			if json.Unmarshal(lines.Bytes(), &next) != nil {
				break
			}
			status = next
			v.show(status)
		}
		_ = resp.Body.Close() // read as far as it is of use
		if status.Complete || ctx.Err() != nil {
			return status, nil
		}
		select {
		case <-ctx.Done():
			return status, nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// verdict is the end of a wait: a summary, or why it failed.
func verdict(w io.Writer, status sync.ChangeStatus, timeout time.Duration, began time.Time) error {
	var rejected, late []string
	for _, z := range status.Zones {
		switch z.State {
		case sync.Rejected:
			for _, r := range z.Rejections {
				rejected = append(rejected, fmt.Sprintf("zone %s: proxy %s rejects %s: %s", z.Zone, r.Proxy, what(r), strings.TrimSpace(r.Reason)))
			}
			if len(z.Rejections) == 0 {
				rejected = append(rejected, fmt.Sprintf("zone %s: %s reject it", z.Zone, proxies(z.Rejected)))
			}
		case sync.Offline:
			late = append(late, fmt.Sprintf("zone %s is offline", z.Zone))
		case sync.Unknown:
			late = append(late, fmt.Sprintf("zone %s is %s", z.Zone, sync.Whereabouts(z.MayBeAt)))
		case sync.Behind:
			text := fmt.Sprintf("zone %s: %s of %d behind", z.Zone, proxies(z.Behind), z.Affected)
			if z.Affected == 0 {
				text = fmt.Sprintf("zone %s has not confirmed it", z.Zone)
			}
			if len(z.BehindNames) > 0 {
				text += ": " + strings.Join(z.BehindNames, ", ")
			}
			late = append(late, text)
		}
	}
	if len(rejected) > 0 {
		return &exitError{exitRejected, "rejected\n  " + strings.Join(append(rejected, late...), "\n  ")}
	}
	if !status.Complete {
		if len(late) == 0 {
			late = []string{"global did not say how it stands"}
		}
		return &exitError{exitTimeout, fmt.Sprintf("not everywhere after %s\n  %s", timeout, strings.Join(late, "\n  "))}
	}
	var times []string
	for _, z := range status.Zones {
		if z.Settled > 0 {
			times = append(times, fmt.Sprintf("%s %s", z.Zone, short(z.Settled)))
		}
	}
	switch {
	case len(status.Zones) == 0:
		fmt.Fprintln(w, "no zone has joined yet")
	case len(times) > 0:
		fmt.Fprintf(w, "in force everywhere; time to the last proxy: %s\n", strings.Join(times, ", "))
	case !began.IsZero():
		fmt.Fprintf(w, "in force everywhere after %s\n", short(time.Since(began)))
	default:
		fmt.Fprintln(w, "in force everywhere")
	}
	return nil
}

func what(r sync.Rejection) string {
	name := r.TypeURL[strings.LastIndexByte(r.TypeURL, '.')+1:]
	if r.Resource != "" {
		name += " " + r.Resource
	}
	return name
}

func proxies(n int) string {
	if n == 1 {
		return "1 proxy"
	}
	return fmt.Sprintf("%d proxies", n)
}

func short(d time.Duration) string {
	switch {
	case d > 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d > 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

// text is the state of a zone in a few words.
func text(z sync.ZoneProgress) string {
	switch {
	case z.State == sync.Offline:
		return "offline"
	case z.State == sync.Unknown:
		return sync.Whereabouts(z.MayBeAt)
	case z.Affected == 0 && z.State == sync.Done:
		return "done, no proxy is affected"
	case z.Affected == 0:
		return string(z.State)
	}
	out := fmt.Sprintf("%s, %d of %d proxies", z.State, z.Done, z.Affected)
	if z.Rejected > 0 {
		out += fmt.Sprintf(", %d rejected", z.Rejected)
	}
	if z.State == sync.Done && z.Settled > 0 {
		out += " in " + short(z.Settled)
	}
	return out
}

// lines prints a line for each new state of a zone.
type lines struct {
	w    io.Writer
	last map[string]string
}

func (l *lines) show(s sync.ChangeStatus) {
	for _, z := range s.Zones {
		if t := text(z); l.last[z.Zone] != t {
			l.last[z.Zone] = t
			fmt.Fprintf(l.w, "zone %s: %s\n", z.Zone, t)
		}
	}
}

func (l *lines) close() {}

// bars shows a bar for each zone on a terminal.
type bars struct {
	progress *mpb.Progress
	zones    map[string]*bar
}

type bar struct {
	*mpb.Bar
	now chan string // capacity 1: the newest text
}

func newBars(w io.Writer) *bars {
	return &bars{progress: mpb.New(mpb.WithOutput(w), mpb.WithRefreshRate(50*time.Millisecond), mpb.WithAutoRefresh()), zones: map[string]*bar{}}
}

func (b *bars) show(s sync.ChangeStatus) {
	for _, z := range s.Zones {
		one := b.zones[z.Zone]
		if one == nil {
			one = &bar{now: make(chan string, 1)}
			last := ""
			// Without a total it is completed by close alone.
			one.Bar = b.progress.AddBar(0, mpb.BarWidth(24), mpb.PrependDecorators(decor.Name(z.Zone, decor.WCSyncSpaceR)),
				mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
					select {
					case last = <-one.now:
					default:
					}
					return last
				})))
			b.zones[z.Zone] = one
		}
		select {
		case <-one.now:
		default:
		}
		one.now <- text(z)
		total, current := int64(max(z.Affected, 1)), int64(z.Done)
		if z.State == sync.Done {
			current = total
		}
		one.SetTotal(total, false)
		one.SetCurrent(current)
	}
}

func (b *bars) close() {
	for _, one := range b.zones {
		one.Abort(false)
	}
	b.progress.Wait()
}

// terminal says whether a person watches.
func terminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" && f.Name() != os.DevNull
}
