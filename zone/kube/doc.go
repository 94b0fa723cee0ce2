// Package kube is the platform of a Kubernetes cluster: its pods are the zone's
// proxies, its Services the zone's services, and agents prove who they are with
// service account tokens.
//
// In flow watches of Namespaces, Nodes, Pods, Services and EndpointSlices, and the
// tokens of agents; out flow batches for a platform.Sink, and proxies that may
// join. What becomes of an object is decided in pure functions (podOf, servicesOf,
// addressesOf); the model says which objects a change concerns.
//
// Rights needed: get, list, watch of namespaces, nodes, pods, services and
// endpointslices (discovery.k8s.io) in the cluster; create of tokenreviews
// (authentication.k8s.io) and events.
package kube
