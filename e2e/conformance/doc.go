// Package conformance runs the Gateway API's conformance tests for meshes against
// a cluster with Tombolo. In flow a kubeconfig and the features that are claimed,
// out flow the failed tests and a report for docs/conformance.
//
// It is a module of its own, so that the tests' many dependencies stay out of
// Tombolo's. run.sh builds it with the image of its workload (folder echo); the
// scenario conformance of e2e/kube runs it (make conformance).
package conformance
