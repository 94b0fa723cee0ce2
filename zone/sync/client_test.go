package sync

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// TestAddressesInTurn: of several addresses each is tried once before there is a
// pause, wherever it begins, and the next after a failure without one.
func TestAddressesInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type dialled struct {
			address string
			at      time.Duration
		}
		began := time.Now()
		dials := make(chan dialled, 64)
		c := New(Config{Zone: "east", Address: "passthrough:///one, passthrough:///two,passthrough:///three", Token: func() (string, error) { return "x", nil },
			Replica: nowhere{},
			DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(_ context.Context, address string) (net.Conn, error) {
					dials <- dialled{address, time.Since(began)}
					return nil, errors.New("connection refused")
				})}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = c.Run(ctx) }()
		var rounds [][]dialled
		for range 3 {
			rounds = append(rounds, []dialled{<-dials, <-dials, <-dials})
		}
		cancel()
		<-done
		for i, round := range rounds {
			var names []string
			for _, d := range round {
				names = append(names, d.address)
				if d.at != round[0].at {
					t.Errorf("round %d pauses between addresses: %v", i, round)
				}
			}
			all := strings.Join(names, " ")
			for _, name := range []string{"one", "two", "three"} {
				if strings.Count(all, name) != 1 {
					t.Errorf("round %d dials %s", i, all)
				}
			}
			if i > 0 && round[0].at == rounds[i-1][0].at {
				t.Errorf("no pause before round %d", i)
			}
		}
	})
}

type nowhere struct{ Replica }
