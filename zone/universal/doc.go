// Package universal is the platform of machines and VMs: agents that register
// proxies with a token, and resources from files.
//
// In flow agent streams, out flow proxies that join, change health, drain and
// leave, as calls of Proxies.
package universal
