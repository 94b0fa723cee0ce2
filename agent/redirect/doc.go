// Package redirect sends an application's connections through the proxy beside
// it: what goes in is a [Config], what comes out is one nftables table in a
// network namespace, put there by netlink.
//
// [Rules] is pure and says everything: the same [Plan] is printed for people (in
// the syntax of nft) and given to the kernel. A pod's init container, the CNI
// plugin and virtual machines share it.
//
// # What is redirected
//
//   - TCP that the application opens to another host arrives at the outbound
//     port, with its destination in SO_ORIGINAL_DST.
//   - TCP that comes from another host arrives at the inbound port.
//   - DNS (UDP and TCP port 53) arrives at the DNS port on 127.0.0.1 or ::1.
//   - What the proxy itself opens is left alone, but for one case: what Envoy
//     opens to other proxies has the socket priority [MeshCallPriority], and where it
//     leads to this host's own address, it is a call of the application to itself
//     by way of the mesh and arrives at the inbound port. Connections to the
//     application have no such priority and reach it, whatever its address.
//
// Loopback, this host's own addresses, IPv6 link-local addresses and every
// protocol but TCP and DNS are not touched; nor is what a host forwards.
//
// # DNS and connection tracking
//
// The agent asks the real nameservers from ports that the application has used a
// moment before. Were both in one conntrack zone, the entry of the application's
// question would send the agent's question back to the agent. So redirected
// questions and their answers, which never leave the host, have a zone of their
// own ([DNSZone]). An application whose socket was open before the rules came is
// redirected with its next question for the same reason.
package redirect
