package agent

import (
	"encoding/json"
	"fmt"
	"time"

	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

// bootstrap is what Envoy's bootstrap is made from. Nothing of it is secret: it is the
// agent that proves to the zone whose configuration it asks for.
type bootstrap struct {
	node    node
	sockets sockets
}

// node is an Envoy as its zone knows it.
type node struct{ id, cluster, zone string }

func nodeOf(r *agentv1.Registered) node { return node{r.NodeId, r.NodeCluster, r.Zone} }

// sockets are the paths between an Envoy and its agent: Envoy's admin API, its
// identity, and its configuration.
type sockets struct{ admin, sds, ads string }

type object = map[string]any
type list = []any

// maxDownstreamConnections bounds what one Envoy takes, whoever sends it.
const maxDownstreamConnections = 50_000

// json renders the bootstrap. It depends on nothing but b.
func (b bootstrap) json() ([]byte, error) {
	adsSource := object{"ads": object{}, "resource_api_version": "V3"}
	return json.MarshalIndent(object{
		"node":  object{"id": b.node.id, "cluster": b.node.cluster, "locality": object{"zone": b.node.zone}},
		"admin": object{"address": object{"pipe": object{"path": b.sockets.admin, "mode": 0o600}}},
		"dynamic_resources": object{
			"ads_config": object{
				"api_type":                       "DELTA_GRPC",
				"transport_api_version":          "V3",
				"set_node_on_first_message_only": true,
				"grpc_services": list{object{
					// The default waits up to 30 s after an outage.
					"envoy_grpc": object{"cluster_name": "ads", "retry_policy": object{
						"retry_back_off": object{"base_interval": "0.1s", "max_interval": "1s"}}},
				}},
			},
			"cds_config": adsSource,
			"lds_config": adsSource,
		},
		"static_resources": object{"clusters": list{agentCluster("ads", b.sockets.ads), agentCluster("agent_sds", b.sockets.sds)}},
		// Statistics nobody reads cost memory by the cluster; no tags by regular
		// expression, they cost milliseconds by the cluster.
		"deferred_stat_options": object{"enable_deferred_creation_stats": true},
		"stats_config":          object{"stats_matcher": object{"inclusion_list": object{"patterns": statsPatterns()}}},
		"overload_manager": object{"resource_monitors": list{object{
			"name": "envoy.resource_monitors.global_downstream_max_connections",
			"typed_config": object{
				"@type":                             "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
				"max_active_downstream_connections": maxDownstreamConnections},
		}}},
		// Without it, Envoy refuses the listener for remote peers.
		"bootstrap_extensions": list{object{
			"name":         "envoy.bootstrap.internal_listener",
			"typed_config": object{"@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"},
		}},
		// Validated regular expressions may be longer than Envoy's default of 100 allows.
		"layered_runtime": object{"layers": list{object{
			"name": "static", "static_layer": object{"re2": object{"max_program_size": object{"error_level": 1000, "warn_level": 1000}}}}}},
	}, "", "  ")
}

// agentCluster is a server of the agent's. It needs no keepalive: Envoy and its agent
// die with each other.
func agentCluster(name, socket string) object {
	return object{
		"name":            name,
		"type":            "STATIC",
		"connect_timeout": "1s",
		"load_assignment": object{"cluster_name": name, "endpoints": list{object{"lb_endpoints": list{
			object{"endpoint": object{"address": object{"pipe": object{"path": socket}}}}}}}},
		"typed_extension_protocol_options": object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
			"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
			"explicit_http_config": object{"http2_protocol_options": object{}},
		}},
	}
}

// statsPatterns are the statistics that are kept.
func statsPatterns() list {
	var out list
	for _, p := range []string{"server.", "listener_manager.", "cluster_manager.", "control_plane."} {
		out = append(out, object{"prefix": p})
	}
	for _, s := range []string{
		"downstream_cx_active", "downstream_cx_total", "downstream_cx_no_route", "downstream_rq_active", "downstream_rq_total",
		"downstream_rq_2xx", "downstream_rq_3xx", "downstream_rq_4xx", "downstream_rq_5xx",
		"upstream_cx_active", "upstream_cx_total", "upstream_cx_connect_fail", "upstream_cx_connect_timeout",
		"upstream_rq_active", "upstream_rq_total", "upstream_rq_2xx", "upstream_rq_3xx", "upstream_rq_4xx", "upstream_rq_5xx",
		"upstream_rq_timeout", "upstream_rq_retry", "upstream_rq_pending_overflow",
		"membership_healthy", "membership_total", "ejections_active", "ejections_enforced_total",
		"handshake", "fail_verify_error", "fail_verify_san", "fail_verify_no_cert", "connection_error",
		"sni_found", "update_success", "update_rejected", "init_fetch_timeout", ".allowed", ".denied", "shadow_denied",
	} {
		out = append(out, object{"suffix": s})
	}
	// What filters and routers say of gRPC, where HTTP says 200 of everything.
	for _, s := range []string{"no_cluster", "no_route", "rq_direct_response"} {
		out = append(out, object{"suffix": s})
	}
	return append(out, object{"contains": ".grpc."})
}

// envoyArguments are the command line for a bootstrap file.
func envoyArguments(cfg Config, file string) []string {
	seconds := int(cfg.DrainTime.Round(time.Second) / time.Second)
	return []string{
		"--config-path", file,
		"--disable-hot-restart",
		"--concurrency", fmt.Sprint(cfg.Concurrency),
		"--drain-time-s", fmt.Sprint(seconds),
		"--drain-strategy", "immediate",
		"--file-flush-interval-msec", "1000",
		"--log-level", cfg.EnvoyLogLevel,
	}
}
