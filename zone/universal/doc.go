// Package universal is the platform of machines and VMs: admission of agents by
// dataplane tokens, and resources from files.
//
// In flow tokens with Dataplane manifests, and folders; out flow proxies that may
// join, and resources that the zone owns.
package universal
