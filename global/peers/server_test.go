package peers

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/global/sync"
	peersv1 "github.com/tombolo-mesh/tombolo/proto/peers/v1"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// asks is a question as it arrives.
func asks(zone string, parts ...*zonesyncv1.InspectRequest) func() (*peersv1.Ask, error) {
	return func() (*peersv1.Ask, error) {
		if len(parts) == 0 {
			return nil, io.EOF
		}
		ask := &peersv1.Ask{Zone: zone, Question: parts[0]}
		parts = parts[1:]
		return ask, nil
	}
}

func TestQuestionIsPutTogether(t *testing.T) {
	want := sync.Question{What: "plan", Mesh: "default", Proxy: "web", Body: bytes.Repeat([]byte("q"), zonesync.MaxQuestionBytes)}
	zone, got, err := question(asks("east", want.Frames(0)...))
	if err != nil || zone != "east" || got.What != want.What || got.Mesh != want.Mesh || got.Proxy != want.Proxy || !bytes.Equal(got.Body, want.Body) {
		t.Errorf("%s: %s %s %s, %d bytes, %v", zone, got.What, got.Mesh, got.Proxy, len(got.Body), err)
	}
}

func TestQuestionIsBounded(t *testing.T) {
	large := sync.Question{What: "plan", Body: make([]byte, zonesync.MaxQuestionBytes+1)}
	for want, recv := range map[string]func() (*peersv1.Ask, error){
		"the question has more than 16777216 bytes":           asks("east", large.Frames(0)...),
		"the names of the question have more than 4096 bytes": asks("east", &zonesyncv1.InspectRequest{What: "stats", Proxy: strings.Repeat("x", maxNames)}),
		"a part of the question is empty":                     asks("east", &zonesyncv1.InspectRequest{What: "plan", More: true}, &zonesyncv1.InspectRequest{More: true}),
		"the question ends too soon":                          asks("east", &zonesyncv1.InspectRequest{What: "plan", Body: []byte("{"), More: true}),
	} {
		_, _, err := question(recv)
		if st := status.Convert(err); st.Code() != codes.InvalidArgument || st.Message() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
