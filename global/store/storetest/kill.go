package storetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

const (
	envSpec  = "TOMBOLO_STORETEST_WRITER"
	envRound = "TOMBOLO_STORETEST_ROUND"
	writers  = 4
)

// Main runs a package's tests; its TestMain calls it. In a process that the
// suite started to be killed, it opens the store of a Harness.Spec and writes
// until the end.
func Main(m *testing.M, open func(ctx context.Context, spec string) (store.Store, error)) {
	spec := os.Getenv(envSpec)
	if spec == "" {
		os.Exit(m.Run())
	}
	if err := writeForever(spec, open); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(1)
}

// writeForever prints a line for each write after it was acknowledged.
func writeForever(spec string, open func(context.Context, string) (store.Store, error)) error {
	ctx := context.Background()
	s, err := open(ctx, spec)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for w := range writers {
		wg.Go(func() {
			for i := 0; ; i++ {
				k := key(mesh.KindMeshService, fmt.Sprintf("r%s-w%d-%d", os.Getenv(envRound), w, i))
				at, err := s.Write(ctx, "user:test", []store.Op{put(k, `"half"`), put(k, `"whole"`)})
				if err != nil {
					errs[w] = err
					return
				}
				mu.Lock()
				fmt.Println(at.Revision, at.Digest, k.Name)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

type ack struct {
	at   store.Position
	name string
}

// testKill kills a process that writes, three times, and looks at what is left.
func testKill(t *testing.T, h Harness) {
	if h.Spec == "" {
		t.Fatal("the harness has no Spec")
	}
	var acks []ack
	var last store.Position
	for round := range 3 {
		acks = append(acks, killedWriter(t, h, round, 30+40*round)...)
		s := h.open(t)
		// A new process goes on at once, and the numbers with it.
		at := write(t, s, put(key(mesh.KindMeshTimeout, "round"), fmt.Sprint(round)))
		changes := verify(t, h, s)
		if last.Revision >= at.Revision {
			t.Fatalf("revision %d was reached before", at.Revision)
		}
		if d, err := s.DigestAt(t.Context(), last.Revision); err != nil || d != last.Digest {
			t.Fatalf("digest at %d is %s, %v, it was %s", last.Revision, d, err, last.Digest)
		}
		for _, a := range acks {
			if a.at.Revision > mesh.Revision(len(changes)) {
				t.Fatalf("revision %d was acknowledged and is lost", a.at.Revision)
			}
			c := changes[a.at.Revision-1]
			if d, err := s.DigestAt(t.Context(), a.at.Revision); c.Resource.Name != a.name || string(c.Resource.Spec) != `"whole"` || err != nil || d != a.at.Digest {
				t.Fatalf("%s was acknowledged at %+v, there is %s (%s, %v)", a.name, a.at, c.Resource.Key, d, err)
			}
		}
		_, all := collect(t, s)
		for k, r := range all {
			if string(r.Spec) == `"half"` {
				t.Errorf("half a batch is left: %s", k)
			}
		}
		if last, _ = s.Head(t.Context()); last.Revision < at.Revision {
			t.Fatalf("head is %d after %d", last.Revision, at.Revision)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// killedWriter starts a writer, kills it after some acknowledgements, and
// returns those that it still printed.
func killedWriter(t *testing.T, h Harness, round, after int) (acks []ack) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), envSpec+"="+h.Spec, fmt.Sprintf("%s=%d", envRound, round))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break // what is left is half a line
		}
		var a ack
		if err == nil {
			_, err = fmt.Sscan(line, &a.at.Revision, &a.at.Digest, &a.name)
		}
		if err != nil {
			t.Fatalf("the writer said %q: %v", line, err)
		}
		if acks = append(acks, a); len(acks) == after {
			if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the writer ended with %v, want it killed", err)
	}
	return acks
}
