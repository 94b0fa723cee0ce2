package sync_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	globalsync "github.com/tombolo-mesh/tombolo/global/sync"
)

// BenchmarkZones: a policy is written and every zone applies and reports it. The zones
// are in this process, so that their side of the stream is in what is measured.
func BenchmarkZones(b *testing.B) {
	for _, zones := range []int{1, 4, 16, 64, 100} {
		b.Run(fmt.Sprintf("zones=%d", zones), func(b *testing.B) {
			f := newFleetOf(b, false, true, globalsync.NewMemStore())
			for i := range zones {
				f.join(fmt.Sprintf("zone-%d", i))
			}
			change := func(i int) {
				rev := f.write(put(aTimeout("t", 1+i%9)))
				if err := f.server.WatchChange(b.Context(), rev, func(s globalsync.ChangeStatus) bool { return !s.Complete }); err != nil {
					b.Fatal(err)
				}
			}
			f.eventually("all zones are here", func() error {
				for _, z := range f.server.Zones() {
					if !z.Online {
						return fmt.Errorf("%s is not", z.Name)
					}
				}
				if n := len(f.server.Zones()); n != zones {
					return fmt.Errorf("%d of %d are", n, zones)
				}
				return nil
			})
			change(0)
			before := processor()
			i := 0
			for b.Loop() {
				i++
				change(i)
			}
			b.ReportMetric(float64((processor()-before).Microseconds())/float64(b.N*zones), "µs-cpu/zone")
		})
	}
}

// processor is the time that this process has used.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
