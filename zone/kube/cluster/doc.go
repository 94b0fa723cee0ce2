// Package cluster is the connection to one Kubernetes cluster: clients, watches
// and Events, for everything below zone/kube.
//
// In flow a kubeconfig or the pod's own service account, and the watches of the
// API server; out flow tables of slim objects that tell what changed, and Events.
package cluster
