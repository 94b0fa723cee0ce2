package agent

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// bootstrap is what Envoy's bootstrap is made from.
type bootstrap struct {
	nodeID, nodeCluster, zone string
	// address (host:port) of the zone's xDS server and the name in its certificate.
	address, serverName string
	// relay is the path of a socket that leads to the xDS server; empty: Envoy
	// connects to address itself.
	relay string
	// zoneCA is PEM.
	zoneCA string
	// token that Envoy presents to the zone.
	token string
	// adminSocket and sdsSocket are paths.
	adminSocket, sdsSocket string
}

type object = map[string]any
type list = []any

// maxDownstreamConnections bounds what one Envoy takes, whoever sends it.
const maxDownstreamConnections = 50_000

// json renders the bootstrap. It depends on nothing but b.
func (b bootstrap) json() ([]byte, error) {
	ads, err := b.adsCluster()
	if err != nil {
		return nil, err
	}
	adsSource := object{"ads": object{}, "resource_api_version": "V3"}
	return json.MarshalIndent(object{
		"node":  object{"id": b.nodeID, "cluster": b.nodeCluster, "locality": object{"zone": b.zone}},
		"admin": object{"address": object{"pipe": object{"path": b.adminSocket, "mode": 0o600}}},
		"dynamic_resources": object{
			"ads_config": object{
				"api_type":                       "DELTA_GRPC",
				"transport_api_version":          "V3",
				"set_node_on_first_message_only": true,
				"grpc_services": list{object{
					// The default waits up to 30 s after an outage.
					"envoy_grpc": object{"cluster_name": "ads", "retry_policy": object{
						"retry_back_off": object{"base_interval": "0.1s", "max_interval": "1s"}}},
					"initial_metadata": list{object{"key": "authorization", "value": "Bearer " + b.token}},
				}},
			},
			"cds_config": adsSource,
			"lds_config": adsSource,
		},
		"static_resources": object{"clusters": list{ads, b.sdsCluster()}},
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

func (b bootstrap) adsCluster() (object, error) {
	host, port, err := splitAddress(b.address)
	if err != nil {
		return nil, fmt.Errorf("address of the xDS server: %w", err)
	}
	kind := "STRICT_DNS"
	if _, err := netip.ParseAddr(host); err == nil {
		kind = "STATIC"
	}
	san, sni := "DNS", b.serverName
	if net.ParseIP(b.serverName) != nil {
		san, sni = "IP_ADDRESS", ""
	}
	tls := object{
		"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
		"common_tls_context": object{
			"alpn_protocols": list{"h2"},
			"tls_params":     object{"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
			"validation_context": object{
				"trusted_ca":                    object{"inline_string": b.zoneCA},
				"match_typed_subject_alt_names": list{object{"san_type": san, "matcher": object{"exact": b.serverName}}},
			},
		},
	}
	if sni != "" {
		tls["sni"] = sni
	}
	out := object{
		"name":             "ads",
		"type":             kind,
		"connect_timeout":  "1s",
		"load_assignment":  assignment("ads", object{"socket_address": object{"address": host, "port_value": port}}),
		"transport_socket": object{"name": "envoy.transport_sockets.tls", "typed_config": tls},
		// A host that is gone without a word is noticed by the kernel, within 8 s, and a
		// zone that hangs by pings, within 20 s: one that is short of processors for some
		// seconds must not have all its proxies dial again at once.
		"typed_extension_protocol_options": http2(object{"connection_keepalive": object{"interval": "10s", "timeout": "10s"}}),
		"upstream_connection_options": object{"tcp_keepalive": object{
			"keepalive_probes": 3, "keepalive_time": 5, "keepalive_interval": 1}},
	}
	if b.relay != "" {
		out["type"] = "STATIC"
		out["load_assignment"] = assignment("ads", object{"pipe": object{"path": b.relay}})
		delete(out, "upstream_connection_options") // it is no TCP connection
	}
	return out, nil
}

func (b bootstrap) sdsCluster() object {
	return object{
		"name":                             "agent_sds",
		"type":                             "STATIC",
		"connect_timeout":                  "1s",
		"load_assignment":                  assignment("agent_sds", object{"pipe": object{"path": b.sdsSocket}}),
		"typed_extension_protocol_options": http2(object{}),
	}
}

func assignment(name string, address object) object {
	return object{"cluster_name": name, "endpoints": list{object{"lb_endpoints": list{object{"endpoint": object{"address": address}}}}}}
}

func http2(options object) object {
	return object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
		"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
		"explicit_http_config": object{"http2_protocol_options": options},
	}}
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
	return out
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
