package conformance

import (
	"cmp"
	"os"
	"testing"

	v1 "sigs.k8s.io/gateway-api/conformance/apis/v1"

	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// supported are the features that are claimed: their tests must pass. Of the
// profiles' extended features none is left out.
func supported() []features.FeatureName {
	return []features.FeatureName{
		features.SupportMesh,
		features.SupportHTTPRoute,
		features.SupportGRPCRoute,
		features.SupportReferenceGrant,
		features.SupportMeshClusterIPMatching,
		features.SupportMeshConsumerRoute,
		features.SupportMeshHTTPRouteRewritePath,
		features.SupportMeshHTTPRouteSchemeRedirect,
		features.SupportMeshHTTPRouteRedirectPort,
		features.SupportMeshHTTPRouteRedirectPath,
		features.SupportHTTPRouteResponseHeaderModification,
		features.SupportHTTPRouteParentRefPort,
		features.SupportHTTPRoute303RedirectStatusCode,
		features.SupportHTTPRoute307RedirectStatusCode,
		features.SupportHTTPRoute308RedirectStatusCode,
		features.SupportMeshHTTPRouteQueryParamMatching,
		features.SupportMeshHTTPRouteBackendRequestHeaderModification,
		features.SupportMeshHTTPRouteNamedRouteRule,
	}
}

// skipped are tests of claimed features that do not pass, each with the reason.
func skipped() []string {
	return []string{
		// Its second half calls a pod by its address. Such a call is of no Service, so
		// that nothing says whom the pod must prove to be, and pods in a mesh take
		// nothing but mTLS. Its first half is what MeshFrontendHostname tests.
		"MeshFrontend",
	}
}

// TestMesh runs the profiles MESH-HTTP and MESH-GRPC against the cluster of
// KUBECONFIG. The flags of the conformance tests work, -run-test for one.
func TestMesh(t *testing.T) {
	if os.Getenv("KUBECONFIG") == "" {
		t.Skip("KUBECONFIG names no cluster: make conformance does it")
	}
	o := conformance.DefaultOptions(t)
	o.SupportedFeatures = supported()
	o.SkipTests = skipped()
	o.ConformanceProfiles = []suite.ConformanceProfileName{suite.MeshHTTPConformanceProfileName, suite.MeshGRPCConformanceProfileName}
	o.NamespaceLabels = map[string]string{"tombolo.io/sidecar-injection": "enabled"}
	o.Implementation = v1.Implementation{
		Organization: "tombolo-mesh", Project: "tombolo", URL: "https://github.com/tombolo-mesh/tombolo",
		Version: cmp.Or(os.Getenv("TOMBOLO_VERSION"), "devel"), Contact: []string{"https://github.com/tombolo-mesh/tombolo/issues"},
	}
	conformance.RunConformanceWithOptions(t, o)
}
