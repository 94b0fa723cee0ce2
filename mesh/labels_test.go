package mesh

import "testing"

// Who may say a label in two forms may not leave to chance which of them counts.
func TestCanonicalLabelsAreDeterministic(t *testing.T) {
	for range 64 {
		got := CanonicalLabels(map[string]string{"kuma.io/workload": "theirs", LabelWorkload: "ours", "k8s.kuma.io/namespace": "n", "app": "a"})
		if len(got) != 3 || got[LabelWorkload] != "ours" || got[LabelNamespace] != "n" || got["app"] != "a" {
			t.Fatal(got)
		}
	}
}
