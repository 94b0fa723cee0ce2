// Package cni redirects the traffic of pods that have a sidecar, from outside of
// them: a CNI plugin, chained after the cluster's own, that gets a pod's network
// namespace and annotations from the container runtime and gives the namespace its
// rules (agent/redirect); and the daemon that keeps the plugin chained on a node.
//
// The plugin decides by two annotations that the injecting webhook writes. What it
// must redirect and cannot, it refuses: a pod does not start unprotected. All else
// it passes on at once, and deleting a pod never fails because of it.
package cni
