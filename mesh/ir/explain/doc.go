// Package explain says where a call goes and what becomes of it, hop by hop, from
// what the compiler recorded.
//
// In flow the compiled proxies of caller and server (ir.Proxy with its sources),
// endpoint sets and what Envoys say of the health of hosts; out flows an
// Explanation. The caller's zone makes the way there (Leave), each zone that a
// call may arrive in says what happens there (Arrive), and Conclude puts both
// together. No policy is merged here again. The package is pure.
package explain
