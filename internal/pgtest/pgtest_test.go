package pgtest

import (
	"context"
	"net"
	"net/url"
	"os"
	"testing"
)

func TestKillAndRestart(t *testing.T) {
	s := Start(t)
	u, err := url.Parse(s.DSN)
	if err != nil {
		t.Fatal(err)
	}
	reachable := func() bool {
		c, err := net.Dial("tcp", u.Host)
		if err != nil {
			return false
		}
		return c.Close() == nil
	}
	if !reachable() {
		t.Fatalf("nothing listens at %s", u.Host)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if reachable() {
		t.Fatal("it listens though it was killed")
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Restart of a running one is a stop and a start.
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !reachable() {
		t.Fatal("it does not listen after a restart")
	}
	if _, err := s.CreateDatabase(context.Background(), "other"); err != nil {
		t.Fatal(err)
	}
	dir := s.dir
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Fatalf("the folder is left: %v", err)
	}
}
