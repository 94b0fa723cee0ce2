package kube

import "testing"

// demo is the namespace whose applications are there for every scenario: web calls,
// backend is called; in both clusters, with two replicas of backend.
const demo = "demo"

// plain is a namespace without injection: web there is not in the mesh.
const plain = "plain"

// names of services, as callers in the mesh say them.
const (
	local     = "http://backend.demo"                          // backend by its Service's name
	eastName  = "http://backend.demo.svc.east.mesh.local"      // the one of east
	westName  = "http://backend.demo.svc.west.mesh.local"      // the one of west
	westGRPC  = "grpc://backend.demo.svc.west.mesh.local:9090" // its gRPC port
	westTCP   = "tcp://backend.demo.svc.west.mesh.local:7070"  // its TCP port
	vmsName   = "http://backend.svc.vms.mesh.local"            // the one of the virtual machines
	everyName = "http://backend.mzsvc.mesh.local"              // backend wherever it is
)

// scenario is a subtest of TestKube. Those that disturb what others measure run
// alone, one after the other; the others at once.
type scenario struct {
	name  string
	alone bool
	run   func(*testing.T, *fleet)
}

func scenarios() []scenario {
	return []scenario{
		{"mesh", true, testMesh},
		{"injection", false, testInjection},
		{"strict", false, testStrict},
		{"permission", false, testPermission},
		{"protocols", false, testProtocols},
		{"names", false, testNames},
		{"job", false, testJob},
		{"init-container", false, testInitContainer},
		{"init-mode", false, testInitMode},
		{"statefulset", false, testStatefulSet},
		{"rolling-restart", false, testRollingRestart},
		{"global-gone", true, testGlobalGone},
		{"ingress-killed", true, testIngressKilled},
		{"zone-upgrade", true, testZoneUpgrade},
		{"zone-down", true, testZoneDown},
		{"api-server-restart", true, testAPIServerRestart},
		{"zone-cut", true, testZoneCut},
		{"early-pod", true, testEarlyPod},
		{"conformance", true, testConformance},
		{"budgets", true, testBudgets},
		{"uninstall", true, testUninstall},
	}
}

// TestKube runs the scenarios on one fleet.
func TestKube(t *testing.T) {
	f := newFleet(t)
	f.startVMs(t)
	f.before = f.nodeFiles(t)
	f.install(t)
	f.demo(t)
	if t.Failed() {
		return
	}
	for i := 0; i < len(scenarios()); {
		// A run of scenarios that may run at once is a group: the next waits for it.
		group := scenarios()[i : i+1]
		for !group[0].alone && i+len(group) < len(scenarios()) && !scenarios()[i+len(group)].alone {
			group = scenarios()[i : i+len(group)+1]
		}
		i += len(group)
		ok := t.Run("group", func(t *testing.T) {
			for _, s := range group {
				t.Run(s.name, func(t *testing.T) {
					if !s.alone {
						t.Parallel()
					}
					t.Cleanup(func() { f.dump(t, demo, plain, s.name) })
					s.run(t, f)
				})
			}
		})
		if first := group[0].name == scenarios()[0].name; first && !ok {
			return // nothing works: the others would only wait
		}
	}
}
