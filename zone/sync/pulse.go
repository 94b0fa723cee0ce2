package sync

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	gosync "sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/tombolo-mesh/tombolo/proto/zonesync"
)

// How long a zone hears nothing before it looks for another instance of global.
const (
	// minPatience are almost three beats, and the half of a second that a busy
	// machine may take. Up to morePatience is added by chance, so that zones do not
	// all come at once.
	minPatience  = 2*zonesync.Beat + 300*time.Millisecond
	morePatience = 300 * time.Millisecond
	// lastWord is for the silent one to say something after another was found. One
	// that is only slow speaks as soon as it answers a dial.
	lastWord = 50 * time.Millisecond
	// seekPause is the time between two searches that found nobody.
	seekPause = time.Second
	// overslept: this process did not run itself, and has heard nobody for that.
	overslept = 300 * time.Millisecond
)

// pulse knows when global was last heard: any byte on the connection counts, since
// a large frame takes its time. While the receiver works nothing is missed, for
// what global says may be held back by it.
type pulse struct {
	mu      gosync.Mutex
	last    time.Time
	working bool
}

// heard notes a sign of life.
func (p *pulse) heard() {
	p.mu.Lock()
	p.last = time.Now()
	p.mu.Unlock()
}

// listen says that the receiver waits, and busy that it works.
func (p *pulse) listen() {
	p.mu.Lock()
	p.last, p.working = time.Now(), false
	p.mu.Unlock()
}

func (p *pulse) busy() {
	p.mu.Lock()
	p.last, p.working = time.Now(), true
	p.mu.Unlock()
}

// silence is for how long nothing was heard.
func (p *pulse) silence() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.working {
		return 0
	}
	return time.Since(p.last)
}

// seek finds a stream at another instance of global, or at the same by another
// connection.
type seek func(ctx context.Context) (*opened, error)

// moved ends a stream for another that is open already.
type moved struct {
	to      *opened
	silence time.Duration
}

// Error says why.
func (m *moved) Error() string {
	return fmt.Sprintf("global was silent for %s; going to %s, which answers", m.silence.Round(time.Millisecond), m.to.address)
}

// watch looks for another instance while global is silent, and ends the stream when
// one was found: never sooner, so that a single instance, or several that are slow
// together, are not run away from.
func (s *session) watch() {
	patience := minPatience + rand.N(morePatience)
	wait := func(d time.Duration) bool {
		timer := time.NewTimer(d)
		defer timer.Stop()
		began := time.Now()
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			return false
		}
		if time.Since(began) > d+overslept {
			s.pulse.heard()
		}
		return true
	}
	for {
		if silent := s.pulse.silence(); silent < patience {
			if !wait(max(patience-silent, time.Millisecond)) {
				return
			}
			continue
		}
		found, err := s.seek(s.ctx)
		if err != nil {
			if !wait(seekPause + rand.N(seekPause)) {
				return
			}
			continue
		}
		if !wait(lastWord) || s.pulse.silence() < patience {
			found.end()
			continue
		}
		m := &moved{to: found, silence: s.pulse.silence()}
		s.cancel(m)
		if context.Cause(s.ctx) != error(m) { // it ended for another reason meanwhile
			found.end()
		}
		return
	}
}

// listening is transport security that notes what is heard on its connections.
type listening struct {
	credentials.TransportCredentials
	pulse *pulse
}

// ClientHandshake implements credentials.TransportCredentials.
func (l listening) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return l.TransportCredentials.ClientHandshake(ctx, authority, heardConn{raw, l.pulse})
}

// Clone implements credentials.TransportCredentials.
func (l listening) Clone() credentials.TransportCredentials {
	return listening{l.TransportCredentials.Clone(), l.pulse}
}

type heardConn struct {
	net.Conn
	pulse *pulse
}

// Read implements net.Conn.
func (c heardConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.pulse.heard()
	}
	return n, err
}
