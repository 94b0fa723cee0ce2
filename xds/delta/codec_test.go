package delta

import (
	"bytes"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
)

// TestCodec: what is marshalled once is what it always was, stays after it was given
// back, and is a message to whoever does not know it.
func TestCodec(t *testing.T) {
	resp := responseOf(routeType, "w7", 7, []*Resource{{TypeURL: routeType, Name: "a", Version: "1", Body: bytes.Repeat([]byte("b"), 5000)}})
	once, codec := &printed{DeltaDiscoveryResponse: resp}, NewCodec()
	want, err := proto.Marshal(resp)
	if err != nil {
		t.Fatal(err)
	}
	var first *byte
	for range 3 {
		data, err := codec.Marshal(once)
		if err != nil {
			t.Fatal(err)
		}
		got := data.MaterializeToBuffer(nil).ReadOnlyData()
		if !bytes.Equal(got, want) {
			t.Fatal("other bytes than the message's")
		}
		if first == nil {
			first = &got[0]
		} else if first != &got[0] {
			t.Error("marshalled again")
		}
		data.Free()
	}
	plain, err := codec.Marshal(resp)
	if err != nil || !bytes.Equal(plain.Materialize(), want) {
		t.Errorf("a message of one stream is %d bytes, %v", plain.Len(), err)
	}
	var m proto.Message = once
	if b, err := proto.Marshal(m); err != nil || !bytes.Equal(b, want) {
		t.Errorf("to another codec it is %d bytes, %v", len(b), err)
	}
	if err := codec.Unmarshal(plain, &discoveryv3.DeltaDiscoveryResponse{}); err != nil {
		t.Error(err)
	}
}
