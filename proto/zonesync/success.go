package zonesync

import "github.com/tombolo-mesh/tombolo/mesh"

// WhatSuccess asks how calls go that a staged change has a say in; the body is a
// Success, the answer a SuccessCounts. A zone that does not know it answers with
// an error.
const WhatSuccess = "success"

// OfEvery says which questions every instance of a zone answers for itself: an
// instance can ask the proxies alone that are connected to it. Their answers come one
// after the other.
func OfEvery(what string) bool { return what == WhatSuccess }

// Success names what is staged.
type Success struct {
	// Documents that are rolled out.
	Documents []mesh.Key `json:"documents"`
	// Before has them as they will be, while the zone has not: how calls go now that
	// they will have a say in.
	Before []PlannedChange `json:"before,omitempty"`
}

// SuccessCounts is what a sample of the proxies that the documents reach, and that are
// connected to one instance of the zone, has counted.
type SuccessCounts struct {
	// Reached proxies are connected, and the documents have a say in what they do.
	Reached int `json:"reached"`
	// Silent proxies were asked and did not answer.
	Silent int `json:"silent,omitempty"`
	// Proxies that answered. From one answer to the next they are the same, as far as
	// they are still there.
	Proxies []ProxyCounts `json:"proxies"`
}

// ProxyCounts are the counters of one proxy. They begin anew when it restarts.
type ProxyCounts struct {
	// Proxy is its name.
	Proxy string `json:"proxy"`
	// Services that had calls.
	Services []ServiceCounts `json:"services,omitempty"`
}

// ServiceCounts are the calls of one service at one proxy.
type ServiceCounts struct {
	// Service for people: "backend.west:8080 by web" or "backend:8080".
	Service string `json:"service"`
	// Requests that were answered, or connections of TCP that were tried.
	Requests uint64 `json:"requests"`
	// Failed of them: answered by 5xx, denied, or not connected.
	Failed uint64 `json:"failed"`
}
