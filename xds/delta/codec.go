package delta

import (
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Codec is gRPC's own for protobuf, but marshals a response to many streams once. Give
// it to the gRPC server that serves a Server (grpc.ForceServerCodecV2); without it each
// stream's response is marshalled by itself.
type Codec struct{ encoding.CodecV2 }

// NewCodec makes one; it holds nothing.
func NewCodec() Codec { return Codec{encoding.GetCodecV2(proto.Name)} }

// Marshal implements encoding.CodecV2.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*printed); ok {
		return r.marshal(c.CodecV2)
	}
	return c.CodecV2.Marshal(v)
}

// printed is a response that stays marshalled. To other codecs it is a message.
type printed struct {
	*discoveryv3.DeltaDiscoveryResponse
	once sync.Once
	data mem.BufferSlice
	err  error
}

func (p *printed) marshal(codec encoding.CodecV2) (mem.BufferSlice, error) {
	p.once.Do(func() {
		var data mem.BufferSlice
		if data, p.err = codec.Marshal(p.DeltaDiscoveryResponse); p.err != nil {
			return
		}
		// Not of a pool: who sends it gives it back each time, and it stays.
		p.data = mem.BufferSlice{mem.SliceBuffer(data.Materialize())}
		data.Free()
	})
	return p.data, p.err
}
