package check

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/internal/ports"
	"github.com/tombolo-mesh/tombolo/internal/serverca"
)

func TestToken(t *testing.T) {
	now := time.Now()
	key, err := token.GenerateKey("k")
	if err != nil {
		t.Fatal(err)
	}
	sign := func(c token.Claims) string {
		raw, err := key.Sign(c)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	year := token.Claims{Use: token.Zone, Zone: "east", Issued: now.Add(-time.Hour), Expires: now.AddDate(1, 0, 0)}
	expired, ending, early := year, year, year
	expired.Expires = now.Add(-time.Minute)
	ending.Expires = now.Add(time.Hour)
	early.Issued = now.Add(time.Hour)
	for _, c := range []struct {
		raw, zone string
		want      Status
		message   string
	}{
		{"", "east", Skip, "no token"},
		{"nonsense", "east", Fail, "this is no token"},
		{sign(token.Claims{Use: token.User, Name: "a", Issued: now, Expires: now.Add(time.Hour)}), "east", Fail, "for a user"},
		{sign(year), "west", Fail, `for zone "east", not "west"`},
		{sign(expired), "east", Fail, "expired"},
		{sign(early), "east", Fail, "in the future"},
		{sign(ending), "east", Warn, "expires at"},
		{sign(year) + "\n", "east", OK, "for zone east"},
		{sign(year), "", OK, "for zone east"},
	} {
		if got := Token(c.raw, c.zone, now); got.Status != c.want || !strings.Contains(got.Message, c.message) || (got.Do == "") != (got.Status == OK || got.Status == Skip) {
			t.Errorf("%+v, want %s %q", got, c.want, c.message)
		}
	}
}

// TestGlobal dials a real TLS server, by the names it has and has not.
func TestGlobal(t *testing.T) {
	dir := t.TempDir()
	authority, err := serverca.New(serverca.Config{Dir: dir, Names: []string{"localhost"}, CommonName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Load(); err != nil {
		t.Fatal(err)
	}
	listener := tls.NewListener(ports.Listen(t), authority.TLS())
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).HandshakeContext(t.Context())
			_ = c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	ca := string(authority.CAPEM())
	now := time.Now()
	last := func(rs []Result) Result { return rs[len(rs)-1] }
	for _, c := range []struct {
		address, ca string
		at          time.Time
		name        string
		want        Status
	}{
		{"localhost:" + port, ca, now, "global-certificate", OK},
		{"localhost:" + port, "", now, "global-certificate", Fail},
		{"localhost:" + port, "none", now, "global-certificate", Fail},
		{"localhost:" + port, ca, now.AddDate(-1, 0, 0), "global-certificate", Fail},
		{"127.0.0.2:" + port, ca, now, "global-port", Fail},
		{"no-such-host.invalid:1", ca, now, "global-name", Fail},
		{"localhost", ca, now, "global-name", Fail},
		{"", ca, now, "global-name", Skip},
	} {
		if got := last(Global(t.Context(), c.address, c.ca, c.at)); got.Name != c.name || got.Status != c.want {
			t.Errorf("%s at %s: %+v, want %s %s", c.address, c.at.Format(time.DateOnly), got, c.name, c.want)
		}
	}
	if got := TLS(t.Context(), "agents-port", listener.Addr().String(), "another", ca, now); got.Status != Fail || !strings.Contains(got.Message, "another") {
		t.Errorf("a wrong name: %+v", got)
	}
	if got := TLS(t.Context(), "agents-port", listener.Addr().String(), "localhost", ca, now); got.Status != OK {
		t.Errorf("%+v", got)
	}
}

func TestReadAnswer(t *testing.T) {
	for text, want := range map[string]Status{"ok\nglobal up\nrevision 7\n": OK, "ok\nglobal down\nrevision 7\n": Fail, "ok\nglobal not configured\nrevision 0\n": OK} {
		if got := ReadAnswer("zone-ready", "x", true, text); got.Status != want {
			t.Errorf("%q: %+v", text, got)
		}
	}
	if got := ReadAnswer("zone-ready", "x", false, "starting"); got.Status != Fail {
		t.Errorf("%+v", got)
	}
}

// TestPage: every check that can tell something has its section.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/checks.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`(?:r\.(?:warn|fail|unreadable)\(|Clock\(|Bad\((?:Fail|Warn), |TLS\(ctx, |name(?:, [a-z]+)* +:?= )"([a-z-]+)"(?:, "([a-z-]+)", "([a-z-]+)")?`)
	found := 0
	for _, pattern := range []string{"*.go", "../kube/check/*.go", "../../cmd/tombolo/check.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range names.FindAllStringSubmatch(string(text), -1) {
				for _, name := range m[1:] {
					if name == "" {
						continue
					}
					found++
					if !strings.Contains(string(page), "\n## "+name+"\n") {
						t.Errorf("%s: %s has no section %q", file, Page, name)
					}
				}
			}
		}
	}
	if found < 25 {
		t.Errorf("%d names of checks found: the pattern is out of date", found)
	}
}
