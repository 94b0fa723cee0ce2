// Package agents is the zone's server for agents: registration, certificates,
// health, drain and inspection, over one stream for each agent.
//
// In flow streams of agents and, from an Admitter, who may join; out flow proxies
// that join, change health, drain and leave, as calls of Proxies.
package agents
