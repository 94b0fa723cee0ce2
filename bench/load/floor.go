package load

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/anypb"
)

// Floor is a server that knows nothing: asked by HTTP it sends the same bytes to
// every stream and hears that they came. What it takes, no control plane of gRPC
// over TLS can do better on that machine.
type Floor struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	mu      sync.Mutex
	streams map[chan *discoveryv3.DeltaDiscoveryResponse]bool
	mark    int64
}

// DeltaAggregatedResources holds a stream.
func (f *Floor) DeltaAggregatedResources(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	out := make(chan *discoveryv3.DeltaDiscoveryResponse, 16)
	f.mu.Lock()
	f.streams[out] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.streams, out)
		f.mu.Unlock()
	}()
	ended := make(chan error, 1)
	go func() { // ends with the stream
		for {
			if _, err := s.Recv(); err != nil {
				ended <- err
				return
			}
		}
	}()
	for {
		select {
		case err := <-ended:
			return err
		case r := <-out:
			if err := s.Send(r); err != nil {
				return err
			}
		}
	}
}

// ServeHTTP sends ?bytes=N to every stream (POST), and answers with how many there are.
func (f *Floor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		f.mu.Lock()
		defer f.mu.Unlock()
		fmt.Fprint(w, len(f.streams))
		return
	}
	size, err := strconv.Atoi(r.URL.Query().Get("bytes"))
	if err != nil || size < 0 || size > 64<<20 {
		http.Error(w, "bytes must be 0 to 64 MiB", http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mark++
	body, err := anypb.New(&clusterv3.Cluster{Name: string(make([]byte, size))})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	resp := &discoveryv3.DeltaDiscoveryResponse{SystemVersionInfo: strconv.FormatInt(f.mark, 10), TypeUrl: EndpointType, Nonce: "n",
		Resources: []*discoveryv3.Resource{{Name: "floor", Version: strconv.FormatInt(f.mark, 10), Resource: body}}}
	for out := range f.streams {
		select {
		case out <- resp:
		default:
			http.Error(w, "a stream is behind", http.StatusServiceUnavailable)
			return
		}
	}
	fmt.Fprint(w, len(f.streams))
}

// ServeFloor serves a Floor at an address, and its HTTP at another, until ctx ends.
func ServeFloor(ctx context.Context, address, control string, cfg *tls.Config) error {
	f := &Floor{streams: map[chan *discoveryv3.DeltaDiscoveryResponse]bool{}}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	// With windows that are to be found out each message costs a ping, as in no control plane here.
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(cfg)), grpc.StaticStreamWindowSize(1<<16-1))
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, f)
	h := &http.Server{Addr: control, Handler: f, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 2)
	var wg sync.WaitGroup
	wg.Go(func() { failed <- h.ListenAndServe() })
	wg.Go(func() { failed <- s.Serve(l) })
	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
	}
	s.Stop()
	_ = h.Close()
	wg.Wait()
	return err
}
