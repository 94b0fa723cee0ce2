// Package calls is traffic that says what came of it: calls by HTTP/1.1, h2c, gRPC
// and TCP, one by one or at a steady rate. In flow URLs, out flow samples and
// counts; the workload and the tests of the Kubernetes laboratory share its types.
package calls
