// Package nodes keeps pods away from nodes that cannot redirect their traffic, and
// replaces those that came too early. In flow nodes, the CNI plugin's pods and pods
// that wait to start; out flow a taint on nodes, and deletions of pods.
//
// A pod whose network was made before the plugin was chained has no redirect, and
// its sidecar, which looks for it, does not start. It is deleted once its
// node is ready, and its controller makes another: nothing of it has run yet. The
// other way, to enter the pod's network and to install the rules there, would need
// a privileged daemon on every node for something that happens once in a node's life.
package nodes
