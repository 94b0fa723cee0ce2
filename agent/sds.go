package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	// identitySecret is the one secret that Envoy gets from its agent.
	identitySecret = "identity"
	secretType     = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// secrets serves the proxy's key and certificate to Envoy, by delta SDS on a Unix
// socket. Until there is a certificate it serves nothing, and Envoy opens no port.
type secrets struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	log *slog.Logger

	mu      sync.Mutex
	current *discoveryv3.Resource // nil until the first certificate
	changed chan struct{}         // closed when current is replaced
}

func newSecrets(log *slog.Logger) *secrets {
	return &secrets{log: log, changed: make(chan struct{})}
}

// set replaces key and certificate, both PEM.
func (s *secrets) set(chain, key []byte) error {
	body, err := proto.Marshal(&tlsv3.Secret{Name: identitySecret, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: chain}},
		PrivateKey:       &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: key}},
	}}})
	if err != nil {
		return fmt.Errorf("marshal identity: %w", err)
	}
	sum := sha256.Sum256(chain) // the chain has the public key: equal chains, equal secrets
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = &discoveryv3.Resource{Name: identitySecret, Version: hex.EncodeToString(sum[:8]),
		Resource: &anypb.Any{TypeUrl: secretType, Value: body}}
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

func (s *secrets) get() (*discoveryv3.Resource, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current, s.changed
}

// serve listens on a Unix socket until ctx ends.
func (s *secrets) serve(ctx context.Context, listener net.Listener) error {
	server := grpc.NewServer(grpc.MaxConcurrentStreams(64), grpc.MaxRecvMsgSize(64<<10))
	secretv3.RegisterSecretDiscoveryServiceServer(server, s)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) && ctx.Err() == nil {
		return fmt.Errorf("serve secrets: %w", err)
	}
	return nil
}

// listenUnix listens on a path, in place of what an earlier agent left there.
func listenUnix(path string) (net.Listener, error) {
	if len(path) > 107 {
		return nil, fmt.Errorf("socket path %s has %d bytes, Unix sockets allow 107: choose a shorter work dir", path, len(path))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	// Whoever can connect gets the proxy's key, whatever the umask and the folder say.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), l.Close())
	}
	return l, nil
}

// secretStream is the state of one of Envoy's streams.
type secretStream struct {
	subscribed bool
	sent       string // version
	nonce      string // of the response that is not answered yet; one at a time
	count      int
}

// DeltaSecrets implements envoy.service.secret.v3.SecretDiscoveryService.
func (s *secrets) DeltaSecrets(stream secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	requests := make(chan *discoveryv3.DeltaDiscoveryRequest)
	ended := make(chan error, 1)
	go func() { // ends with the stream, which ends when this method returns
		for {
			r, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- r:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	var st secretStream
	for {
		current, changed := s.get()
		if st.subscribed && st.nonce == "" && current != nil && current.Version != st.sent {
			st.count++
			st.nonce, st.sent = strconv.Itoa(st.count), current.Version
			err := stream.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: secretType, Nonce: st.nonce,
				SystemVersionInfo: current.Version, Resources: []*discoveryv3.Resource{current}})
			if err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case r := <-requests:
			if err := s.request(&st, r); err != nil {
				return err
			}
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

func (s *secrets) request(st *secretStream, r *discoveryv3.DeltaDiscoveryRequest) error {
	if r.TypeUrl != "" && r.TypeUrl != secretType {
		return status.Errorf(codes.InvalidArgument, "type must be %s, not %.100q", secretType, r.TypeUrl)
	}
	if r.ResponseNonce != "" && r.ResponseNonce == st.nonce {
		st.nonce = ""
		if r.ErrorDetail != nil {
			s.log.Error("envoy refuses its identity", "error", r.ErrorDetail.Message)
		}
	}
	for _, name := range r.ResourceNamesUnsubscribe {
		if name == identitySecret {
			st.subscribed = false
		}
	}
	for _, name := range r.ResourceNamesSubscribe {
		if name != identitySecret {
			s.log.Warn("envoy asks for a secret that the agent does not have", "secret", name)
			continue
		}
		st.subscribed, st.sent = true, r.InitialResourceVersions[identitySecret]
	}
	return nil
}
