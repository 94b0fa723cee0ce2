package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"syscall"
)

// collectLater collects the garbage of the load tool now, and none until the end of what
// it measures, unless half of the machine's memory is full of it: the tool shares its
// processors with what it measures, and thousands of simulated Envoys would stand still
// at times as no Envoys of their own hosts do.
func collectLater() (end func()) {
	var machine syscall.Sysinfo_t
	if syscall.Sysinfo(&machine) != nil {
		return func() {}
	}
	runtime.GC()
	percent := debug.SetGCPercent(-1)
	debug.SetMemoryLimit(int64(uint64(machine.Totalram) * uint64(machine.Unit) / 2))
	return func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(math.MaxInt64)
	}
}
