// Package appprobe runs an application's health checks on behalf of a kubelet.
//
// Under strict mTLS a kubelet, which has no certificate, cannot ask the
// application itself. The webhook points its probes at the agent and leaves a
// Table of what was asked; the Server asks the application the same way from
// inside the pod, where the proxy is not in between, and says what it answered.
// Only what is in the table can be asked, for the port is open to everyone; hooks
// only by their secret, which the kubelet has from the pod. In flow
// a table and requests for /app-probes/<container>/<kind>; out flow status codes
// and, for failures of the way there, a line of text, never the application's
// answer itself.
package appprobe
