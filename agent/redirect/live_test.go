package redirect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestLive(t *testing.T) {
	l := newLab(t)
	gateway := everything()
	gateway.Inbound.Disabled = true
	included := nameserversOnly()
	included.Outbound.IncludeCIDRs = []netip.Prefix{netip.MustParsePrefix("10.50.0.0/16")}
	excluded := everything()
	excluded.VIPs, excluded.Outbound.ExcludeCIDRs = nil, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2000::/3")}
	for _, tc := range []struct {
		name     string
		config   Config
		uid, gid int
		occupied string // port of the proxy, taken already
		install  bool
		want     string // in the error
	}{
		{name: "application", config: everything(), uid: 1000, gid: 1000, install: true},
		{name: "application without rules", config: everything(), uid: 1000, gid: 1000, want: ErrNotRedirected.Error()},
		{name: "beside a running proxy", config: everything(), uid: 1000, gid: 1000, occupied: ":15001", install: true},
		{name: "beside a running proxy, without rules", config: everything(), uid: 1000, gid: 1000, occupied: ":15001", want: ErrNotRedirected.Error()},
		{name: "proxy's user", config: everything(), uid: DefaultProxyID, gid: DefaultProxyID, install: true},
		{name: "proxy's user without rules", config: everything(), uid: DefaultProxyID, gid: DefaultProxyID, want: ErrNotRedirected.Error()},
		{name: "proxy's user, no inbound", config: gateway, uid: DefaultProxyID, gid: DefaultProxyID, install: true, want: "check as another user"},
		{name: "proxy's group", config: everything(), uid: 1000, gid: DefaultProxyID, install: true, want: "check with another one"},
		{name: "some networks alone", config: included, uid: 1000, gid: 1000, install: true},
		{name: "some networks excluded", config: excluded, uid: 1000, gid: 1000, install: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := Remove(l.path()); err != nil {
				t.Fatal(err)
			}
			if tc.install {
				if err := Install(tc.config, l.path()); err != nil {
					t.Fatal(err)
				}
			}
			if tc.occupied != "" {
				serve(t, l.host, "proxy", tc.occupied)
			}
			err := liveAs(t, l, tc.uid, tc.gid, tc.config)
			switch {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if tc.want == ErrNotRedirected.Error() && !errors.Is(err, ErrNotRedirected) {
				t.Errorf("error %v is not ErrNotRedirected", err)
			}
		})
	}
}

// TestLiveBesideOthers: a proxy that starts again looks while callers of its
// application are redirected to it.
func TestLiveBesideOthers(t *testing.T) {
	l := newLab(t)
	if err := Install(everything(), l.path()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for ctx.Err() == nil {
				if c, err := dial(t, l.peer, 0, 0, "", net.JoinHostPort(host4, "8080")); err == nil {
					c.Close()
				}
			}
		})
	}
	defer callers.Wait()
	defer cancel()
	for range 5 {
		if err := liveAs(t, l, DefaultProxyID, DefaultProxyID, everything()); err != nil {
			t.Error(err)
		}
	}
}

// liveAs runs Live in a process of its own: it asks for the process's user.
func liveAs(t *testing.T, l lab, uid, gid int, c Config) error {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", l.host, "setpriv", "--reuid", strconv.Itoa(uid), "--regid", strconv.Itoa(gid), "--clear-groups", "--", self, "-test.run", "^TestLiveChild$", "-test.v")
	cmd.Env = append(os.Environ(), "REDIRECT_LIVE="+string(text))
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, answer, ok := strings.Cut(string(out), "LIVE:")
	if !ok {
		t.Fatalf("no answer:\n%s", out)
	}
	answer, _, _ = strings.Cut(answer, "\n")
	if answer == "ok" {
		return nil
	}
	if strings.HasPrefix(answer, "not redirected ") {
		return fmt.Errorf("%w: %s", ErrNotRedirected, answer)
	}
	return errors.New(answer)
}

// TestLiveChild is no test: it is the other process of TestLive.
func TestLiveChild(t *testing.T) {
	text := os.Getenv("REDIRECT_LIVE")
	if text == "" {
		t.Skip("runs for TestLive")
	}
	c, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	switch err := Live(t.Context(), c); {
	case err == nil:
		fmt.Println("LIVE:ok")
	case errors.Is(err, ErrNotRedirected):
		fmt.Println("LIVE:not redirected", err)
	default:
		fmt.Println("LIVE:" + err.Error())
	}
}
