package peers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
)

// Another instance beats (zonesync.Beat). One from which nothing comes for silence, and
// then for lastWord, hangs: that is noticed within 3.5 seconds.
const (
	silence = 2500 * time.Millisecond
	// lastWord is waited for apart, since who did not run itself for a while finds the
	// time over, and what was sent meanwhile unread.
	lastWord = time.Second
)

// attentive is transport security whose connections end when the other side hangs,
// unless that is of an older version, which does not beat. gRPC's own pings do not
// come more often than every 10 seconds.
type attentive struct {
	credentials.TransportCredentials
	older *atomic.Bool
}

// ClientHandshake implements credentials.TransportCredentials.
func (a attentive) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return a.TransportCredentials.ClientHandshake(ctx, authority, attentiveConn{raw, a.older})
}

// Clone implements credentials.TransportCredentials.
func (a attentive) Clone() credentials.TransportCredentials {
	return attentive{a.TransportCredentials.Clone(), a.older}
}

type attentiveConn struct {
	net.Conn
	older *atomic.Bool
}

// Read implements net.Conn. Any byte counts, since a large message takes its time.
func (c attentiveConn) Read(b []byte) (int, error) {
	for patience := silence; ; patience = lastWord {
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return 0, err
		}
		n, err := c.Conn.Read(b)
		var late net.Error
		if n > 0 || !errors.As(err, &late) || !late.Timeout() {
			return n, err
		}
		if patience == lastWord && !c.older.Load() {
			_ = c.Close() // so that nobody waits to write, either
			return 0, fmt.Errorf("it was silent for %s", silence+lastWord)
		}
	}
}
