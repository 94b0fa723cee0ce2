// Package e2e is Tombolo as its users run it: the real binaries, real Envoys and
// real PostgreSQL on hosts of the laboratory (e2e/lab), with faults injected
// under traffic that never pauses. It needs root; `make e2e` runs it.
package e2e
