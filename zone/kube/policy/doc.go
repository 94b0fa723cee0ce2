// Package policy is what people write and read with kubectl in a zone's cluster:
// resources of group tombolo.io.
//
// In flow the cluster's custom resources, admission reviews about them, what
// global authored and how far the zone's proxies are with it; out flow resources
// that the zone owns (package platform's batches), answers to reviews, read-only
// copies of what global authored, and statuses.
//
// Who may write what:
//
//   - kinds that are authored in clusters (policies, MeshService,
//     HostnameGenerator, ContainerPatch) by whoever RBAC lets, those of the
//     operator in the system namespace alone;
//   - copies of what global authored (label tombolo.io/origin: global) by the
//     zone's own service account alone.
//
// Rights needed: a ClusterRole with get, list, watch of every resource of group
// tombolo.io, and update, patch of their status; a Role in the system namespace,
// and for meshes a ClusterRole, with create, update, patch, delete.
package policy
