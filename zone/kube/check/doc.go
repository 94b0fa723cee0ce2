// Package check looks at a cluster before it becomes a zone, and after. In flow
// what the API server answers to whoever runs the check; out flow results of
// package zone/check. It changes nothing: what it creates is a dry run.
package check
