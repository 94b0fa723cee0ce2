package delta

import (
	"context"
	"io"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
)

// FuzzRequests feeds any sequence of requests to a stream: nothing panics, what is
// kept stays bounded, and a response never carries what is not subscribed.
func FuzzRequests(f *testing.F) {
	f.Add([]byte{0, 0, 1, 1, 2, 2, 3, 3})
	f.Add([]byte("the quick brown fox jumps over the lazy dog"))
	f.Fuzz(func(t *testing.T, script []byte) {
		s := New(Config{Authorize: func(context.Context, *corev3.Node) (string, error) { return "", io.EOF }})
		types := []string{clusterType, endpointType, listenerType, routeType, "other"}
		names := []string{"a", "b", "*", ""}
		s.Assign("n", "g", nil)
		publish := func(i int) {
			var list []*Resource
			for j, typeURL := range types {
				list = append(list, &Resource{TypeURL: typeURL, Name: names[(i+j)%2], Version: string(rune('1' + i%3)), Endpoints: "a"})
			}
			s.Publish("g", int64(i), i%2 == 0, NewSet(list))
		}
		publish(0)
		st, err := s.attach("n")
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		nonce := ""
		for i := 0; i+1 < len(script); i += 2 {
			op, arg := script[i], int(script[i+1])
			typeURL, name := types[arg%len(types)], names[arg/8%len(names)]
			req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL}
			switch op % 6 {
			case 0:
				req.ResourceNamesSubscribe = []string{name}
			case 1:
				req.ResourceNamesUnsubscribe = []string{name}
			case 2:
				req.ResponseNonce = nonce
			case 3:
				req.ResponseNonce, req.ErrorDetail = nonce, &statuspb.Status{Message: "Error adding/updating cluster(s) a: bad"}
			case 4:
				req.InitialResourceVersions = map[string]string{name: "1"}
			case 5:
				publish(arg)
			}
			if s.handle(st, req) != nil {
				return
			}
			for range 10 {
				s.mu.Lock()
				resp, _ := st.next(now)
				now = now.Add(time.Duration(arg) * 10 * time.Millisecond)
				s.mu.Unlock()
				if resp == nil {
					break
				}
				nonce = resp.Nonce
				for _, r := range resp.Resources {
					if !st.types[resp.TypeUrl].subscribed(r.Name) {
						t.Fatalf("%s %q sent and not subscribed", resp.TypeUrl, r.Name)
					}
				}
			}
		}
		s.detach(st)
		for _, p := range s.Progress("g") {
			if p.Settled.IsZero() || p.Nodes != p.Done+p.Rejected+p.Behind {
				t.Fatalf("%+v", p)
			}
		}
	})
}
