// Package zonesync is what both ends of the stream between global and its zones
// share: the protocol's numbers and the form of a resource on the wire.
//
// In flow resources, out flow messages of zonesync/v1, and the other way round.
// It checks nothing; each end checks what arrives.
package zonesync

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tombolo-mesh/tombolo/mesh"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// Numbers of the protocol. See docs/zonesync.md.
const (
	// Capabilities is the protocol level that this build speaks.
	Capabilities = 3
	// MinCapabilities is the lowest level that it still understands.
	MinCapabilities = 1
	// ChunkBytes is how full a frame of resources gets before the next begins.
	ChunkBytes = 512 << 10
	// MaxFrameBytes bounds a frame unless it carries a single larger resource.
	MaxFrameBytes = 1 << 20
	// MaxMessageBytes is what either end takes at most as one gRPC message.
	MaxMessageBytes = 8 << 20
	// HelloTimeout bounds the time to hello and to welcome.
	HelloTimeout = 10 * time.Second
	// KeepaliveTime without traffic until a ping, and KeepaliveTimeout until its
	// answer, are the same at both ends: a cut link is noticed within their sum.
	KeepaliveTime = 10 * time.Second
	// KeepaliveTimeout is the time for a ping's answer.
	KeepaliveTimeout = 5 * time.Second
	// BeatCapabilities is the level from which on global beats.
	BeatCapabilities = 3
	// Beat is how often global says that it runs.
	Beat = 400 * time.Millisecond
	// InspectChunkBytes bounds one part of an inspection's answer.
	InspectChunkBytes = 256 << 10
	// MaxInspectBytes bounds an inspection's answer.
	MaxInspectBytes = 64 << 20
	// MaxQuestionBytes bounds the body of a question.
	MaxQuestionBytes = 16 << 20
	// BodyCapabilities is the level from which on questions have a body.
	BodyCapabilities = 2
	// MaxInspections bounds the inspections open at once in a zone.
	MaxInspections = 16
	// InspectTimeout bounds an inspection.
	InspectTimeout = 60 * time.Second
	// MaxReportItems bounds the lists of a report.
	MaxReportItems = 256
	// MaxReportNames bounds the names and rejections of one change.
	MaxReportNames = 10
)

// Question is what global asks a zone.
type Question struct {
	// What is asked; see InspectRequest.
	What string
	// Mesh and Proxy that it is about, where it is about one.
	Mesh, Proxy string
	// Body is JSON, at most MaxQuestionBytes, for the questions that have one.
	Body []byte
}

// Frames are the messages that ask the question, in order.
func (q Question) Frames(id uint64) []*zonesyncv1.InspectRequest {
	frames := []*zonesyncv1.InspectRequest{{Id: id, What: q.What, Mesh: q.Mesh, Proxy: q.Proxy}}
	for rest := q.Body; len(rest) > 0; {
		n := min(len(rest), ChunkBytes)
		last := frames[len(frames)-1]
		last.Body, rest = rest[:n], rest[n:]
		if len(rest) > 0 {
			last.More = true
			frames = append(frames, &zonesyncv1.InspectRequest{Id: id})
		}
	}
	return frames
}

// FromResource is the wire form of a resource.
func FromResource(r mesh.Resource) *zonesyncv1.Resource {
	out := FromKey(r.Key)
	out.Labels, out.Spec, out.Status, out.Revision = r.Labels, r.Spec, r.Status, int64(r.Revision)
	if !r.Created.IsZero() {
		out.Created = timestamppb.New(r.Created)
	}
	if !r.Modified.IsZero() {
		out.Modified = timestamppb.New(r.Modified)
	}
	return out
}

// ToResource is the resource that a message carries; a nil message is the zero
// resource. Absent labels are an empty map.
func ToResource(m *zonesyncv1.Resource) mesh.Resource {
	r := mesh.Resource{Key: ToKey(m), Labels: m.GetLabels(), Spec: m.GetSpec(), Status: m.GetStatus(), Revision: mesh.Revision(m.GetRevision())}
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	if m.GetCreated() != nil {
		r.Created = m.GetCreated().AsTime()
	}
	if m.GetModified() != nil {
		r.Modified = m.GetModified().AsTime()
	}
	return r
}

// FromKey is the wire form of a key alone.
func FromKey(k mesh.Key) *zonesyncv1.Resource {
	return &zonesyncv1.Resource{Kind: string(k.Kind), Mesh: k.Mesh, Zone: k.Zone, Name: k.Name}
}

// ToKey is the key of the resource that a message carries.
func ToKey(m *zonesyncv1.Resource) mesh.Key {
	return mesh.Key{Kind: mesh.KindName(m.GetKind()), Mesh: m.GetMesh(), Zone: m.GetZone(), Name: m.GetName()}
}

// Chunks splits messages, in order, into parts of about ChunkBytes each. A
// single larger message is a part of its own. No messages are no parts.
func Chunks[M proto.Message](messages []M) [][]M {
	var parts [][]M
	start, size := 0, 0
	for i, m := range messages {
		n := proto.Size(m) + 8
		if size > 0 && size+n > ChunkBytes {
			parts = append(parts, messages[start:i])
			start, size = i, 0
		}
		size += n
	}
	if start < len(messages) {
		parts = append(parts, messages[start:])
	}
	return parts
}
