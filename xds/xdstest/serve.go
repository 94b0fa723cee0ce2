package xdstest

import (
	"context"
	"fmt"
	"net"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// Serve serves a delta server in memory and returns a connection to it. The
// returned function closes both and waits.
func Serve(ads discoveryv3.AggregatedDiscoveryServiceServer) (conn *grpc.ClientConn, stop func(), err error) {
	l := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, ads)
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(l) // ends with Stop
	}()
	conn, err = grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		server.Stop()
		<-done
		return nil, nil, fmt.Errorf("connect in memory: %w", err)
	}
	return conn, func() {
		conn.Close()
		server.Stop()
		<-done
	}, nil
}
