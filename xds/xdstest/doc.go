// Package xdstest is a fake Envoy for tests: a delta ADS client that subscribes,
// warms, answers and refuses as Envoy 1.40 was measured to do.
//
// In flow responses of a delta server and rules of what to refuse, out flow
// requests and a snapshot of the configuration that it runs.
package xdstest
