package dev

import (
	"fmt"
	"strings"
)

// Everything lives on loopback addresses of its own, so that ports are the usual
// ones and nothing else on the machine is in the way.
const (
	globalHost = "127.77.0.1"
	apiPort    = 5682
	zonePort   = 5685
	xdsPort    = 5678
	web        = "127.77.1.10"
	toRemote   = "127.77.1.10:8081" // web's outbound to backend of zone west
	toAll      = "127.77.1.10:8082" // web's outbound to backend, wherever it is
)

// zone is one of the two.
type zone struct {
	name    string
	host    string // control plane
	ingress string
}

func zones() []zone {
	return []zone{
		{name: "east", host: "127.77.1.1", ingress: "127.77.1.2"},
		{name: "west", host: "127.77.2.1", ingress: "127.77.2.2"},
	}
}

// server is an instance of the service backend, with its sidecar.
type server struct {
	name, zone, host string
}

func servers() []server {
	return []server{
		{name: "backend-east-1", zone: "east", host: "127.77.1.20"},
		{name: "backend-west-1", zone: "west", host: "127.77.2.20"},
	}
}

// lateServer starts while global is away.
func lateServer() server { return server{name: "backend-east-2", zone: "east", host: "127.77.1.21"} }

func (s server) application() string { return s.host + ":18080" }

func (s server) dataplane() string {
	return fmt.Sprintf(`type: Dataplane
mesh: default
name: %s
labels:
  tombolo.io/workload: backend
networking:
  address: %s
  inbound:
    - name: http
      port: 8080
      servicePort: 18080
      protocol: http
`, s.name, s.host)
}

func webDataplane() string {
	return fmt.Sprintf(`type: Dataplane
mesh: default
name: web-1
labels:
  tombolo.io/workload: web
networking:
  address: %s
  outbound:
    - address: %s
      port: 8081
      backendRef:
        kind: MeshService
        labels:
          tombolo.io/display-name: backend
          tombolo.io/zone: west
        port: 8080
    - address: %s
      port: 8082
      backendRef:
        kind: MeshMultiZoneService
        name: backend
        port: 8080
`, web, web, web)
}

func (z zone) ingressDataplane() string {
	return fmt.Sprintf(`type: Dataplane
mesh: default
name: ingress-%s
labels:
  tombolo.io/workload: ingress
networking:
  address: %s
  listeners:
    - type: ZoneIngress
      name: ingress
      port: 10001
`, z.name, z.ingress)
}

const everywhere = `type: MeshMultiZoneService
mesh: default
name: backend
spec:
  selector:
    meshService:
      matchLabels:
        tombolo.io/display-name: backend
  ports:
    - port: 8080
      appProtocol: http
`

const allowWeb = `type: MeshTrafficPermission
mesh: default
name: allow-web
spec:
  targetRef:
    kind: Dataplane
    labels:
      tombolo.io/workload: backend
  rules:
    - default:
        allow:
          - spiffeID:
              type: Exact
              value: spiffe://default.east.mesh.local/workload/web
`

const denyWeb = `type: MeshTrafficPermission
mesh: default
name: deny-web
spec:
  targetRef:
    kind: Dataplane
    labels:
      tombolo.io/workload: backend
  rules:
    - default:
        deny:
          - spiffeID:
              type: Exact
              value: spiffe://default.east.mesh.local/workload/web
`

const split = `type: MeshHTTPRoute
mesh: default
name: split
spec:
  targetRef:
    kind: Dataplane
    labels:
      tombolo.io/workload: web
  to:
    - targetRef:
        kind: MeshService
        labels:
          tombolo.io/display-name: backend
          tombolo.io/zone: west
      rules:
        - matches:
            - path:
                type: PathPrefix
                value: /
          default:
            backendRefs:
              - kind: MeshService
                labels:
                  tombolo.io/display-name: backend
                  tombolo.io/zone: east
                port: 8080
                weight: 50
              - kind: MeshService
                labels:
                  tombolo.io/display-name: backend
                  tombolo.io/zone: west
                port: 8080
                weight: 50
`

func documents(parts ...string) string { return strings.Join(parts, "---\n") }
