package memory_test

import (
	"context"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/internal/memory"
)

// Tend returns to the system what a burst took.
func TestTendGivesBack(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	burst := make([][]byte, 64)
	for i := range burst {
		burst[i] = make([]byte, 1<<20)
		for at := 0; at < len(burst[i]); at += 4096 {
			burst[i][at] = 1
		}
	}
	full := held()
	runtime.KeepAlive(burst)
	burst = nil
	go func() {
		defer close(ended)
		memory.Tend(ctx, 10*time.Millisecond)
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for held()+48<<20 > full {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d of %d bytes are held though nothing needs them", held(), full)
		}
	}
	cancel()
	<-ended
}

func held() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64() - s[1].Value.Uint64()
}
