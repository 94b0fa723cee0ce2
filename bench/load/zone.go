package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// ZoneConfig of a zone that is only its stream to global.
type ZoneConfig struct {
	// Name of the zone. Required.
	Name string
	// Address of global for zones, host:port. Required.
	Address string
	// Token of the zone. Required.
	Token string
	// TLS to global. Required.
	TLS *tls.Config
	// Proxies that it says it has, all of which every change reaches.
	Proxies uint32
}

// Zone takes what global sends, keeps nothing, and reports at once that its proxies
// have it.
type Zone struct {
	config ZoneConfig
	conn   *grpc.ClientConn
	stream grpc.BidiStreamingClient[zonesyncv1.ZoneFrame, zonesyncv1.GlobalFrame]
	cancel context.CancelFunc
	joined chan struct{}
	done   chan struct{}
	err    error // why the stream ended; of done
}

// JoinZone opens a zone's stream and returns when it has taken all that there is.
func JoinZone(ctx context.Context, c ZoneConfig) (*Zone, error) {
	conn, err := grpc.NewClient(c.Address, grpc.WithTransportCredentials(credentials.NewTLS(c.TLS)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(zonesync.MaxMessageBytes)))
	if err != nil {
		return nil, err
	}
	z := &Zone{config: c, conn: conn, joined: make(chan struct{}), done: make(chan struct{})}
	var streaming context.Context
	streaming, z.cancel = context.WithCancel(context.WithoutCancel(ctx))
	z.stream, err = zonesyncv1.NewZoneSyncClient(conn).Sync(metadata.AppendToOutgoingContext(streaming, "authorization", "Bearer "+c.Token))
	if err != nil {
		z.cancel()
		return nil, errors.Join(err, conn.Close())
	}
	go func() {
		defer close(z.done)
		z.err = z.serve()
	}()
	select {
	case <-z.joined:
		return z, nil
	case <-z.done:
		z.Close()
		return nil, fmt.Errorf("zone %s: %w", c.Name, z.err)
	case <-ctx.Done():
		z.Close()
		return nil, fmt.Errorf("zone %s has not joined: %w", c.Name, ctx.Err())
	}
}

// Close ends the stream and waits until it has.
func (z *Zone) Close() {
	z.cancel()
	<-z.done
	_ = z.conn.Close() // closed once, here
}

func (z *Zone) serve() error {
	hello := &zonesyncv1.Hello{Zone: z.config.Name, Capabilities: zonesync.Capabilities, Version: "load", Instance: z.config.Name}
	if err := z.stream.Send(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Hello{Hello: hello}}); err != nil {
		return err
	}
	for waiting := true; ; {
		frame, err := z.stream.Recv()
		if err != nil {
			return err
		}
		arrived := time.Now()
		var to int64
		switch {
		case frame.GetSnapshot().GetLast():
			to = frame.GetSnapshot().GetTo().GetRevision()
		case frame.GetPush() != nil && !frame.GetPush().GetPartial():
			to = frame.GetPush().GetTo().GetRevision()
		default:
			continue
		}
		if err := z.has(to, arrived); err != nil {
			return err
		}
		if waiting {
			waiting = false
			close(z.joined)
		}
	}
}

// has acknowledges a revision, and reports that every proxy has it.
func (z *Zone) has(rev int64, arrived time.Time) error {
	if err := z.stream.Send(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Ack{Ack: &zonesyncv1.Ack{Revision: rev}}}); err != nil {
		return err
	}
	n := z.config.Proxies
	report := &zonesyncv1.Report{Applied: rev, Settled: rev, ProxiesConnected: n, ProxiesTotal: n, Time: timestamppb.Now(),
		Changes: []*zonesyncv1.ChangeProgress{{Revision: rev, Affected: n, Done: n, SettleMicros: uint64(max(1, time.Since(arrived).Microseconds()))}}}
	return z.stream.Send(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Report{Report: report}})
}
