package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
)

// TestTwoMeshes is (g): the meshes default and other side by side in both zones.
// Each serves its own; neither reaches the other, even where a permission of the
// one names the callers of the other.
func TestTwoMeshes(t *testing.T) {
	f := newFleet(t)
	east, west := f.zones["east"], f.zones["west"]
	f.cli("type: Mesh\nname: other\n", "apply", "-f", "-", "--wait=60s")
	inOther := strings.NewReplacer("mesh: default", "mesh: other", "spiffe://default.", "spiffe://other.").Replace
	for _, z := range f.zones {
		f.startGateway(z, "other")
		f.startWeb(z, "default")
		f.startWeb(z, "other")
	}
	// Of each mesh a server in each zone: of default on the first hosts.
	for _, z := range f.zones {
		f.startBackend(z, "default", 0)
		f.startBackend(z, "other", 1)
	}
	f.apply(everywhere, allowWeb("allow-web", "east"), inOther(everywhere), inOther(allowWeb("allow-web", "east")),
		// What default says of the callers of other opens nothing to them.
		strings.ReplaceAll(allowWeb("allow-others", "east"), "spiffe://default.", "spiffe://other."))
	f.answers(east.web, remote, http.StatusOK)
	f.answers(east.stranger, remote, http.StatusOK)
	f.answers(west.web, remote, http.StatusForbidden)
	f.answers(west.stranger, remote, http.StatusForbidden)

	from := time.Now()
	traffic := map[string]*lab.Traffic{"default": east.web.Send(remote, 20), "other": east.stranger.Send(remote, 20)}
	denied := map[string]*lab.Traffic{"default": west.web.Send(remote, 20), "other": west.stranger.Send(remote, 20)}

	// With the genuine identity of one mesh at the servers of the other.
	ours, theirs := f.stolen("web-east"), f.stolen("web-east-other")
	refused := func(s lab.Sample) bool { return s.Err != nil }
	for _, c := range []struct {
		what  string
		knock func() lab.Sample
		want  func(lab.Sample) bool
	}{
		{"default at default", func() lab.Sample {
			return knock(west.stranger, west.backends[0].IP+":8080", "8080.backend.west.default.mesh", ours)
		}, lab.Status(http.StatusOK)},
		{"other at default", func() lab.Sample {
			return knock(west.stranger, west.backends[0].IP+":8080", "8080.backend.west.default.mesh", theirs)
		}, refused},
		{"default at other", func() lab.Sample {
			return knock(west.web, west.backends[1].IP+":8080", "8080.backend.west.other.mesh", ours)
		}, refused},
		{"other at other", func() lab.Sample {
			return knock(west.web, west.backends[1].IP+":8080", "8080.backend.west.other.mesh", theirs)
		}, lab.Status(http.StatusOK)},
		{"other at the ingress of default", func() lab.Sample {
			return knock(east.stranger, west.ingress.IP+":10001", "8080.backend.west.default.mesh", theirs)
		}, refused},
		{"the ingress of default does not lead into other", func() lab.Sample {
			return knock(east.stranger, west.ingress.IP+":10001", "8080.backend.west.other.mesh", theirs)
		}, refused},
		{"the ingress of other leads into other", func() lab.Sample {
			return knock(east.stranger, west.ingress.IP+":10002", "8080.backend.west.other.mesh", theirs)
		}, lab.Status(http.StatusOK)},
	} {
		if s := c.knock(); !c.want(s) {
			t.Errorf("%s: status %d, %v", c.what, s.Status, s.Err)
		}
	}

	f.passes(traffic["default"], 5*time.Second)
	for mesh, other := range map[string]string{"default": "other", "other": "default"} {
		traffic[mesh].Stop()
		denied[mesh].Stop()
		good, bad := traffic[mesh].Count(from, time.Now(), func(s lab.Sample) bool {
			r := replyOf(s)
			return fromZone("west")(s) && strings.HasPrefix(r.Caller, "spiffe://"+mesh+".east.") && strings.HasPrefix(r.Self, "spiffe://"+mesh+".west.") &&
				!strings.Contains(s.Body, "spiffe://"+other)
		})
		f.report("east to west in mesh "+mesh, good, bad, 0)
		good, bad = denied[mesh].Count(from, time.Now(), lab.Status(http.StatusForbidden))
		f.report("west's web is denied in mesh "+mesh, good, bad, 0)
	}
}
