// Package meshtest has builders for tests of the domain: manifests in YAML in,
// resources and policies out, with labels computed as global and zones do.
package meshtest
