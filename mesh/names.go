package mesh

import "fmt"

// SNI is the TLS server name of one port of one service of one zone, for
// example "8080.backend.west.default.mesh". It is compared, never parsed.
func SNI(port uint32, service, zone, mesh string) string {
	return fmt.Sprintf("%d.%s.%s.%s.mesh", port, service, zone, mesh)
}

// SNIWildcard covers every SNI of one zone and mesh: "*.west.default.mesh".
func SNIWildcard(zone, mesh string) string { return "*." + zone + "." + mesh + ".mesh" }

// KRI is the text id of a resource or a part of it, used as Envoy's resource
// and stats name, in `GET /_kri/{kri}` and in logs:
// kri_<short>_<mesh>_<zone>_<namespace>_<name>_<section>. Empty parts stay.
func KRI(short, mesh, zone, namespace, name, section string) string {
	return "kri_" + short + "_" + mesh + "_" + zone + "_" + namespace + "_" + name + "_" + section
}
