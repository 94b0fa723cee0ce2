// Package api is global's REST API: authoring, status, tokens.
//
// In flow requests, out flow validated resources into the store, and problem
// details. Routes are made by looping over mesh.Kinds. It computes nothing
// about proxies: status comes from global/sync.
package api
