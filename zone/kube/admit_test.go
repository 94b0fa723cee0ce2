package kube_test

import agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"

func register(dataplane []byte) *agentv1.Register {
	return &agentv1.Register{Dataplane: dataplane, Instance: "i", Capabilities: 1}
}
