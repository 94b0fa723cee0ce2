// Package host is everything that a zone control plane in a cluster takes from it:
// whether this instance leads, the zone's state and certificates, its pods and
// services, and the webhooks that it serves.
//
// In flow a Config and the engine; out flow what package zone runs with. Who leads,
// state and certificates must be there before the zone starts; the rest follows.
package host
