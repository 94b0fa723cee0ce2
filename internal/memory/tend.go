package memory

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// quietRate is how much a process allocates, in bytes a second, while it is quiet.
	quietRate = 1 << 20
	// minGain is what is worth giving back, in bytes.
	minGain = 2 << 20
	// restRatio is how much longer than a giving back took none follows: it costs a
	// twentieth of the time at most.
	restRatio = 20
)

// Tend gives memory back to the system once the process is quiet and holds more than
// after the last time, by a fifth at least, until ctx ends. It looks once each period:
// a second, where bursts are part of life. Without it, what a burst took, a start
// above all, is held for as long as nothing happens.
func Tend(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	held, rest := uint64(0), time.Time{}
	_, before := usage()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, allocated := usage()
		quiet := float64(allocated-before) <= quietRate*every.Seconds()
		before = allocated
		if !quiet || now < held+max(minGain, held/5) || time.Now().Before(rest) {
			continue
		}
		began := time.Now()
		runtime.GC() // pools let go of what they hold at the second
		debug.FreeOSMemory()
		rest = time.Now().Add(restRatio * time.Since(began))
		held, before = usage()
	}
}

// usage is the memory that the runtime holds, and what was ever allocated, in bytes.
func usage() (held, allocated uint64) {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64() - s[1].Value.Uint64(), s[2].Value.Uint64()
}
