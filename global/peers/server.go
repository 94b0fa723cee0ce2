package peers

import (
	"bufio"
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/global/sync"
	peersv1 "github.com/tombolo-mesh/tombolo/proto/peers/v1"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
)

// server answers the other instances.
type server struct {
	peersv1.UnimplementedPeersServer
	p     *Peers
	fleet Fleet
}

// Register adds the service to a gRPC server whose listener has the TLS of Peers.
func (p *Peers) Register(r grpc.ServiceRegistrar, fleet Fleet) {
	peersv1.RegisterPeersServer(r, &server{p: p, fleet: fleet})
}

// caller is the instance that calls. Zones reach the same listener and have no
// certificate of an instance.
func (s *server) caller(ctx context.Context) (string, error) {
	if from, ok := peer.FromContext(ctx); ok {
		if info, ok := from.AuthInfo.(credentials.TLSInfo); ok && info.State.ServerName == serverName && len(info.State.PeerCertificates) > 0 {
			id, err := s.p.identify(ctx, info.State.PeerCertificates[0])
			if err != nil {
				return "", status.Error(codes.Unauthenticated, err.Error())
			}
			return id, nil
		}
	}
	return "", status.Error(codes.Unauthenticated, "only for other instances of global")
}

// lasting ends with the call, or when this instance ends.
func (s *server) lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-s.p.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// Watch implements the gRPC service.
func (s *server) Watch(_ *peersv1.WatchRequest, stream grpc.ServerStreamingServer[peersv1.Update]) error {
	if _, err := s.caller(stream.Context()); err != nil {
		return err
	}
	ctx, cancel := s.lasting(stream.Context())
	defer cancel()
	if err := s.fleet.Export(ctx, stream.Send); ctx.Err() == nil {
		return err
	}
	return status.Error(codes.Unavailable, errStopped.Error())
}

// Inspect implements the gRPC service.
func (s *server) Inspect(stream grpc.BidiStreamingServer[peersv1.Ask, peersv1.Answer]) error {
	if _, err := s.caller(stream.Context()); err != nil {
		return err
	}
	ctx, cancel := s.lasting(stream.Context())
	defer cancel()
	zone, q, err := question(stream.Recv)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(answers{stream}, zonesync.InspectChunkBytes)
	if err = s.fleet.InspectHere(ctx, zone, q, out); err == nil {
		err = out.Flush()
	} else if out.Buffered() > 0 {
		_ = out.Flush() // the error says that it is not all
	}
	return toStatus(err)
}

// maxNames bounds the names of a question in bytes, together.
const maxNames = 4096

// question puts the parts of a question together.
func question(recv func() (*peersv1.Ask, error)) (zone string, q sync.Question, err error) {
	for first := true; ; first = false {
		ask, err := recv()
		if errors.Is(err, io.EOF) {
			return "", q, status.Error(codes.InvalidArgument, "the question ends too soon")
		} else if err != nil {
			return "", q, err
		}
		part := ask.GetQuestion()
		if first {
			zone, q.What, q.Mesh, q.Proxy = ask.GetZone(), part.GetWhat(), part.GetMesh(), part.GetProxy()
		}
		switch {
		case len(ask.GetZone())+len(part.GetWhat())+len(part.GetMesh())+len(part.GetProxy()) > maxNames:
			return "", q, status.Errorf(codes.InvalidArgument, "the names of the question have more than %d bytes", maxNames)
		case part.GetMore() && len(part.GetBody()) == 0:
			return "", q, status.Error(codes.InvalidArgument, "a part of the question is empty")
		}
		if q.Body = append(q.Body, part.GetBody()...); len(q.Body) > zonesync.MaxQuestionBytes {
			return "", q, toStatus(sync.ErrQuestion)
		}
		if !part.GetMore() {
			return zone, q, nil
		}
	}
}

// answers sends what is written.
type answers struct {
	stream grpc.BidiStreamingServer[peersv1.Ask, peersv1.Answer]
}

// Write implements io.Writer.
func (a answers) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n := min(len(rest), zonesync.InspectChunkBytes)
		if err := a.stream.Send(&peersv1.Answer{Chunk: rest[:n]}); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(b), nil
}
