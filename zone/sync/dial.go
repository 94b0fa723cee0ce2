package sync

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// Dialling several addresses, one of which may not answer.
const (
	// dialTime bounds one address, so that a host that is gone costs no more.
	dialTime = 3 * time.Second
	// hedge is how long an address may take before the next is dialled beside it.
	hedge = 400 * time.Millisecond
	// minDials: where there are fewer addresses they are dialled again beside, ever
	// later, since one address may stand for several instances.
	minDials = 3
)

// opened is a stream that nothing was said on yet. Global takes it for the zone's
// at the hello and not before, so it may be left at no cost.
type opened struct {
	address string
	// at is the place of the address in the list that was dialled.
	at    int
	ctx   context.Context
	fs    frameStream
	pulse pulse
	// end closes it, and the connection. It may be called again.
	end func()
}

// open dials one address. The stream lasts as long as ctx.
func (c *Client) open(ctx context.Context, address string) (*opened, error) {
	token, err := c.cfg.Token()
	if err != nil {
		return nil, fmt.Errorf("read the zone token: %w", err)
	}
	o := &opened{address: address}
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(listening{credentials.NewTLS(c.cfg.TLS), &o.pulse}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(zonesync.MaxMessageBytes), grpc.MaxCallSendMsgSize(zonesync.MaxMessageBytes)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: grpcbackoff.DefaultConfig, MinConnectTimeout: dialTime}),
		grpc.WithDefaultServiceConfig(spread),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: zonesync.KeepaliveTime, Timeout: zonesync.KeepaliveTimeout}),
	}, c.cfg.DialOptions...)
	conn, err := grpc.NewClient(address, options...)
	if err != nil {
		return nil, fmt.Errorf("dial global at %s: %w", address, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	o.ctx, o.end = ctx, func() { cancel(); _ = conn.Close() } // closed before: nothing to do
	fs, err := zonesyncv1.NewZoneSyncClient(conn).Sync(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token))
	if err != nil {
		o.end()
		return nil, fmt.Errorf("open the stream to global at %s: %w", address, err)
	}
	o.fs = fs
	return o, nil
}

// reach opens a stream at the first of some addresses that answers: the next is
// dialled when one fails, or has not answered for a while. The search ends with its
// own context, what it found with the other.
func (c *Client) reach(ctx, search context.Context, addresses []string) (*opened, error) {
	type result struct {
		*opened
		dial int
		err  error
	}
	// A dial that lost is ended by its context, which the stream that won keeps.
	results, dials := make(chan result), make([]context.CancelFunc, 0, len(addresses))
	won, running := -1, 0
	defer func() {
		for i, cancel := range dials {
			if i != won {
				cancel()
			}
		}
		for ; running > 0; running-- {
			if r := <-results; r.opened != nil {
				r.end()
			}
		}
	}()
	dial := func() {
		i := len(dials)
		ctx, cancel := context.WithCancel(ctx)
		dials = append(dials, cancel)
		running++
		go func() {
			o, err := c.open(ctx, addresses[i%len(addresses)])
			if o != nil {
				o.at = i % len(addresses)
				end := o.end
				o.end = func() { end(); cancel() }
			}
			results <- result{o, i, err}
		}()
	}
	dial()
	timer := time.NewTimer(hedge)
	defer timer.Stop()
	var failed error
	for running > 0 {
		select {
		case r := <-results:
			running--
			if r.err == nil {
				won = r.dial
				return r.opened, nil
			}
			failed = r.err
			if len(dials) < len(addresses) {
				dial()
				timer.Reset(hedge)
			}
		case <-search.Done():
			return nil, context.Cause(search)
		case <-timer.C:
			if len(dials) < max(len(addresses), minDials) {
				dial()
				timer.Reset(hedge << max(0, len(dials)-len(addresses)))
			}
		}
	}
	return nil, failed
}
