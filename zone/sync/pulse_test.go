package sync

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

var errNobody = errors.New("nobody answers")

func beat() *zonesyncv1.GlobalFrame {
	return &zonesyncv1.GlobalFrame{Frame: &zonesyncv1.GlobalFrame_Beat{Beat: &zonesyncv1.Beat{}}}
}

func welcomeOfLevel(level uint32) *zonesyncv1.GlobalFrame {
	w := welcome(false)
	w.GetWelcome().Capabilities = level
	return w
}

// slow is a replica that takes its time.
type slow struct {
	*fakeZone
	takes time.Duration
}

func (s slow) Apply(to Position, changes []mesh.Change) error {
	time.Sleep(s.takes) // of the bubble's clock
	return s.fakeZone.Apply(to, changes)
}

// TestSilentGlobal: a zone leaves a global that says nothing for the one that
// answers, soon and not too soon; and stays where leaving is of no use.
func TestSilentGlobal(t *testing.T) {
	type at struct {
		g      *script
		found  *atomic.Int64
		others *atomic.Bool
	}
	for name, c := range map[string]struct {
		level  uint32
		others bool
		play   func(at)
		// sought at least once, and moved.
		sought, moved bool
	}{
		"silent, and another answers": {level: 3, others: true, sought: true, moved: true,
			play: func(at) { time.Sleep(minPatience + morePatience + lastWord) }},
		"silent for less": {level: 3, others: true,
			play: func(at) { time.Sleep(minPatience - time.Millisecond) }},
		"it beats": {level: 3, others: true, play: func(a at) {
			for range 30 {
				time.Sleep(zonesync.Beat)
				a.g.say <- beat()
			}
		}},
		"one beat in three": {level: 3, others: true, play: func(a at) {
			for range 10 {
				time.Sleep(minPatience - time.Millisecond)
				a.g.say <- beat()
			}
		}},
		"silent, and nobody else answers": {level: 3, sought: true,
			play: func(at) { time.Sleep(time.Minute) }},
		"nobody answers at first": {level: 3, sought: true, moved: true, play: func(a at) {
			time.Sleep(10 * time.Second)
			a.others.Store(true)
			time.Sleep(3 * time.Second)
		}},
		"it speaks while another is found": {level: 3, others: true, sought: true, play: func(a at) {
			for a.found.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			a.g.say <- beat()
			time.Sleep(lastWord + time.Millisecond)
		}},
		"of a level without beats": {level: 2, others: true,
			play: func(at) { time.Sleep(time.Minute) }},
		"the zone itself is at work": {level: 3, others: true, play: func(a at) {
			a.g.say <- push(0, 1, false, timeout("a"))
			time.Sleep(5*time.Second + time.Millisecond)
			a.g.say <- beat()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				z := newFakeZone()
				client, g := newTestClient(z), newScript()
				client.cfg.Replica = slow{z, 5 * time.Second}
				sought, left := 0, int64(0)
				var found atomic.Int64
				var others atomic.Bool
				others.Store(c.others)
				done := make(chan error, 1)
				go func() {
					done <- client.serve(g.opened(), func() {}, func(context.Context) (*opened, error) {
						if sought++; !others.Load() {
							return nil, errNobody
						}
						found.Add(1)
						return &opened{address: "the other", end: func() { left++ }}, nil
					})
				}()
				g.say <- welcomeOfLevel(c.level)
				synctest.Wait()
				c.play(at{g, &found, &others})
				synctest.Wait()
				var m *moved
				select {
				case err := <-done:
					if !errors.As(err, &m) {
						t.Fatalf("ended with %v", err)
					}
				default:
				}
				if (sought > 0) != c.sought || (m != nil) != c.moved {
					t.Errorf("sought %d times, moved: %v", sought, m)
				}
				if m != nil && left != found.Load()-1 || m == nil && left != found.Load() {
					t.Errorf("%d of %d that were found are left", left, found.Load())
				}
				if g.stop(); m == nil {
					<-done
				}
			})
		})
	}
}

// TestHungAddress: an address that takes connections and says nothing costs a
// hedge, and no more; a single one is dialled again beside.
func TestHungAddress(t *testing.T) {
	for name, addresses := range map[string][]string{
		"of two": {"passthrough:///hung", "passthrough:///refused"},
		"of one": {"passthrough:///hung"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dials := make(chan string, 64)
				c := New(Config{Zone: "east", Token: func() (string, error) { return "x", nil }, Replica: nowhere{},
					DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()),
						grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
							if dials <- address; address == "refused" {
								return nil, errors.New("connection refused")
							}
							<-ctx.Done()
							return nil, ctx.Err()
						})}})
				search, stop := context.WithCancel(t.Context())
				began, ended := time.Now(), make(chan struct{})
				go func() {
					defer close(ended)
					if o, err := c.reach(t.Context(), search, addresses); err == nil {
						o.end()
						t.Error("something was reached")
					}
				}()
				if first := <-dials; first != "hung" {
					t.Errorf("dials %s first", first)
				}
				<-dials
				if took := time.Since(began); took > time.Second {
					t.Errorf("the second dial came after %s", took)
				}
				stop()
				<-ended
			})
		})
	}
}
