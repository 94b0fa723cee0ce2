package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tombolo-mesh/tombolo/global"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tombolo": main})
}

// TestScripts runs the command as people do, against a real global: $DATA is its
// data directory. `exits CODE tombolo …` asserts the exit code. `older ZONE TOKENFILE` has
// a zone of the first version join, and `leaves ZONE` ends it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			data := filepath.Join(env.WorkDir, "global")
			env.Setenv("TOMBOLO_CONFIG", filepath.Join(env.WorkDir, "config.yaml"))
			env.Setenv("DATA", data)
			env.Setenv("HOME", env.WorkDir)
			return serveGlobal(env, data)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "mode": mode, "older": older, "leaves": leaves},
	})
}

func serveGlobal(env *testscript.Env, dir string) error {
	g, err := global.New(global.Config{DataDir: dir, APIAddress: "127.0.0.1:0", ZoneAddress: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	env.Values[olderKey{}] = olderZones{global: g, end: map[string]func(){}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	env.Defer(func() {
		cancel()
		if err := <-done; err != nil {
			env.T().Log("global:", err)
		}
	})
	select {
	case <-g.Started():
		return nil
	case err := <-done:
		return err
	case <-time.After(60 * time.Second):
		return errors.New("global does not start")
	}
}

// exits asserts an exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE command …")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := "0"
	if err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Check(err)
		}
		code = strconv.Itoa(exit.ExitCode())
	}
	if code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}

// mode asserts the permissions of a file.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode 0600 file")
	}
	st, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%#o", st.Mode().Perm()); got != args[0] {
		ts.Fatalf("mode of %s is %s, want %s", args[1], got, args[0])
	}
}
