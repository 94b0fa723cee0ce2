package sync

import (
	"context"
	"io"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// fedStream is a zone that says what it is fed and reads everything.
type fedStream struct {
	ctx context.Context
	say chan *zonesyncv1.ZoneFrame
}

func (s *fedStream) Context() context.Context { return s.ctx }
func (s *fedStream) Send(f *zonesyncv1.GlobalFrame) error {
	if n := proto.Size(f); n > zonesync.MaxMessageBytes {
		panic("a frame that the zone cannot take")
	}
	return s.ctx.Err()
}
func (s *fedStream) Recv() (*zonesyncv1.ZoneFrame, error) {
	select {
	case f, ok := <-s.say:
		if !ok {
			return nil, io.EOF
		}
		return f, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// FuzzGlobal feeds frames of any kind to global's side: it must not panic, must
// end when told, and must not let the zone write what it does not own.
func FuzzGlobal(f *testing.F) {
	say := func(frames ...*zonesyncv1.ZoneFrame) []byte {
		var seed []byte
		for _, frame := range frames {
			b, err := proto.Marshal(frame)
			if err != nil {
				f.Fatal(err)
			}
			seed = append(append(seed, byte(len(b)>>8), byte(len(b))), b...)
		}
		return seed
	}
	greet := &zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Hello{Hello: &zonesyncv1.Hello{Zone: "east", Capabilities: 1, Resume: &zonesyncv1.Position{Revision: 1, Digest: "x"}}}}
	service := &zonesyncv1.Resource{Kind: "MeshService", Mesh: "default", Zone: "east", Name: "s", Spec: []byte(`{"ports":[{"port":80}]}`)}
	facts := &zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Facts{Facts: &zonesyncv1.Facts{Upserts: []*zonesyncv1.Resource{service, nil}, Full: true, To: &zonesyncv1.FactsPosition{Sequence: 1}}}}
	report := &zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Report{Report: &zonesyncv1.Report{Applied: 1, Settled: 1, Changes: []*zonesyncv1.ChangeProgress{{Revision: 1, Behind: 1}, nil}}}}
	f.Add(say(greet, facts, report, &zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Ack{Ack: &zonesyncv1.Ack{Revision: 1}}}))
	f.Add(say(greet, &zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Nack{Nack: &zonesyncv1.Nack{Revision: 1}}}, &zonesyncv1.ZoneFrame{}))
	f.Add(say(greet, &zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Inspect{Inspect: &zonesyncv1.InspectResponse{Id: 1, Last: true}}}, greet))
	f.Add(say(report, facts))
	f.Fuzz(func(t *testing.T, data []byte) {
		mem := NewMemStore()
		_, err := mem.Write(context.Background(), "user:admin", []store.Op{
			{Resource: mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: []byte(`{}`)}},
			{Resource: mesh.Resource{Key: mesh.Key{Kind: mesh.KindZone, Name: "east"}, Spec: []byte(`{}`)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		s := New(Config{Store: mem, Authorize: func(context.Context, string) (string, error) { return "east", nil }})
		ctx, cancel := context.WithCancel(context.Background())
		ran := make(chan struct{})
		go func() { defer close(ran); _ = s.Run(ctx) }()
		streamCtx, hangUp := context.WithCancel(ctx)
		fs := &fedStream{ctx: streamCtx, say: make(chan *zonesyncv1.ZoneFrame)}
		done := make(chan struct{})
		go func() { defer close(done); _ = s.serve(fs, "token") }()
		for over := false; len(data) >= 2 && !over; {
			n := min(int(data[0])<<8|int(data[1]), len(data)-2)
			frame := &zonesyncv1.ZoneFrame{}
			err := proto.Unmarshal(data[2:2+n], frame)
			data = data[2+n:]
			if err != nil {
				continue
			}
			select {
			case fs.say <- frame:
			case <-done:
				over = true
			}
		}
		hangUp()
		<-done
		cancel()
		<-ran
		for key := range mem.state.resources {
			own := key.Zone == "east" && s.view.flows[key.Kind].Has(mesh.ZoneToGlobal)
			if !own && key.Kind != mesh.KindMesh && key.Kind != mesh.KindZone {
				t.Errorf("the zone wrote %s", key)
			}
		}
		for _, c := range mem.state.log[2:] {
			if !strings.HasPrefix(c.Author, "zone:east") {
				t.Errorf("author %q", c.Author)
			}
		}
	})
}
