// Package webhook answers the API server's admission reviews: it gives pods
// their sidecar, and hands Tombolo's own objects to whoever validates them.
//
// In flow pods as they are created, with the labels and annotations of their
// namespaces; out flow JSON patches, warnings, refusals that name the
// annotation at fault, and events that say why a pod was left alone. The
// injection itself is a pure function, Inject. The package also keeps the
// authorities in the webhook configurations current.
//
// Rights needed, beside those of package certs:
//
//   - a ClusterRole: mutatingwebhookconfigurations and
//     validatingwebhookconfigurations (admissionregistration.k8s.io) get, list,
//     watch, patch with resourceNames of the one name, "tombolo-zone";
//   - a ClusterRole: events (core group) create, patch; namespaces get, list, watch;
//   - a Role in the system namespace: containerpatches (tombolo.io) get, list, watch.
package webhook
