package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testConformance runs the Gateway API's mesh conformance tests against east, and
// writes their report. Without TOMBOLO_CONFORMANCE, the folder with what
// e2e/conformance/run.sh builds, it is skipped: make conformance.
func testConformance(t *testing.T, f *fleet) {
	dir := os.Getenv("TOMBOLO_CONFORMANCE")
	if dir == "" {
		t.Skip("make conformance builds what it needs")
	}
	must(t, f.east.Load(t.Context(), filepath.Join(dir, "echo.tar")))
	_, err := f.east.Kubectl(t.Context(), "", "apply", "--server-side", "-f", filepath.Join(dir, "crds"))
	must(t, err)
	f.cli(t, `type: MeshTrafficPermission
mesh: default
name: conformance
spec:
  targetRef: {kind: Dataplane, labels: {app: echo}}
  rules:
    - default:
        allow: [{spiffeID: {type: Prefix, value: "spiffe://default.east.mesh.local/"}}]
`, "apply", "-f", "-", "--yes")
	report := f.path("conformance.yaml")
	args := []string{"-test.v", "-test.run", "^TestMesh$", "-report-output", report}
	if one := os.Getenv("TOMBOLO_CONFORMANCE_TEST"); one != "" {
		args = append(args, "-run-test", one)
	}
	out, err := f.east.Run(t.Context(), filepath.Join(dir, "conformance.test"), args...)
	if writeErr := os.WriteFile(f.path("conformance.log"), []byte(out), 0o644); writeErr != nil {
		t.Error(writeErr)
	}
	for line := range strings.Lines(out) {
		if trimmed := strings.TrimSpace(line); strings.HasPrefix(trimmed, "--- FAIL") || strings.HasPrefix(trimmed, "--- PASS") {
			t.Log(trimmed)
		}
	}
	if err != nil {
		t.Errorf("the tests failed: see %s", f.path("conformance.log"))
	}
	if _, err := os.Stat(report); err != nil {
		t.Fatal(err)
	}
	_, err = f.east.Kubectl(t.Context(), "", "delete", "-f", filepath.Join(dir, "crds"), "--timeout=300s")
	must(t, err)
	passes(t, 5*time.Second) // the zone notices
}
