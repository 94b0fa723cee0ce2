// Package global is the global control plane: it stores, validates, orders and
// distributes what people author, and shows how far it came. It never computes
// Envoy configuration.
//
// In flow REST requests and zone streams, out flow pushes and status.
package global
