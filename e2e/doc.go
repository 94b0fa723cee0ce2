// Package e2e is Tombolo as its users run it: the real binaries, real Envoys and
// real PostgreSQL on hosts of the laboratory (e2e/lab), with faults injected
// under traffic that never pauses. It needs root; `make e2e` runs it.
//
// A fleet is global and its database in the zone hub, and the zones east and
// west, each with hosts for its control plane, its ingress, callers and servers.
// Every scenario has one of its own, gone when it ends, and asserts both what had
// to pass and what had to be refused, throughout. Times of recovery and counts
// are printed (-v).
//
// One scenario alone, after `make build`:
//
//	sudo env TOMBOLO_E2E=1 TOMBOLO_ENVOY=$(go run ./internal/envoybin) \
//	  go test -count=1 -v -run 'TestFailover$' ./e2e/
//
// Configuration, state and the log of each process are in .e2e/<test>/ until the
// test runs again; of a test that failed the ends of the logs are printed, too.
// TOMBOLO_BIN names another folder with the two binaries than bin/.
//
// Nothing outlives the test: namespaces have no names, processes die with the
// thread that started them, and traffic stays inside of the namespaces.
package e2e
