// Package kube is Tombolo on Kubernetes as its users run it: two real clusters
// (east and west), a zone of virtual machines (vms), and a global on PostgreSQL
// outside of them all. Tombolo is installed by its Helm chart, policies come by
// kubectl, and faults are injected under traffic that never pauses. It needs root;
// `make e2e-kube` builds the clusters' binaries and runs it.
//
// The clusters, global and the virtual machines are shared: TestKube starts them
// once, and each scenario is a subtest of it with namespaces of its own. One
// scenario alone, on clusters that stay up for the next time:
//
//	sudo env TOMBOLO_E2E_KUBE_STATE=/root/kube make e2e-kube RUN=TestKube//strict
//
// E2E_LONG=1 makes outages as long as operators see them (global gone for five
// minutes); without, they last as long as it takes to notice.
//
// Logs of every process are in .e2e/kube/ until the next run; of a scenario that
// failed there is a folder with the clusters' pods, events and logs, too.
// kubelab's documentation says how to run it on clusters made by others (kind).
package kube
