package zone

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/zone/agents"
)

// askTime bounds how long one Envoy may take to say who is healthy.
const askTime = 3 * time.Second

// hostPlace is how an Envoy and an endpoint set call the same host: by address
// and port or, behind a gateway, by peer.
type hostPlace struct {
	cluster, address, peer string
	port                   uint32
}

// envoyHealth are the hosts that an Envoy leaves out.
type envoyHealth map[hostPlace]bool

func (h envoyHealth) ejected(cluster string, host ir.Host) bool {
	at := hostPlace{cluster: cluster, address: host.Address, port: host.Port}
	if host.Gateway != "" {
		at = hostPlace{cluster: cluster, peer: host.Peer}
	}
	return h[at]
}

// askHealth asks an Envoy; the text says why it did not answer.
func askHealth(ctx context.Context, control agents.Control) (envoyHealth, string) {
	if control == nil {
		return nil, "is not connected to this instance of the zone"
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var answer bytes.Buffer
	if err := control.Inspect(ctx, adminPaths()["clusters"], &answer); err != nil {
		return nil, "was asked for its clusters: " + err.Error()
	}
	health, err := readHealth(answer.Bytes())
	if err != nil {
		return nil, "answered something else than its clusters: " + err.Error()
	}
	return health, ""
}

// readHealth reads /clusters?format=json.
func readHealth(body []byte) (envoyHealth, error) {
	var list struct {
		Clusters []struct {
			Name  string `json:"name"`
			Hosts []struct {
				Address struct {
					Socket struct {
						Address string `json:"address"`
						Port    uint32 `json:"port_value"`
					} `json:"socket_address"`
					Internal struct {
						Endpoint string `json:"endpoint_id"`
					} `json:"envoy_internal_address"`
				} `json:"address"`
				Health struct {
					Outlier bool `json:"failed_outlier_check"`
				} `json:"health_status"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	out := envoyHealth{}
	for _, c := range list.Clusters {
		for _, h := range c.Hosts {
			if h.Health.Outlier {
				out[hostPlace{cluster: c.Name, address: h.Address.Socket.Address, port: h.Address.Socket.Port, peer: h.Address.Internal.Endpoint}] = true
			}
		}
	}
	return out, nil
}
