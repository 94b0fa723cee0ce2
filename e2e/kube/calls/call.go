package calls

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// callTimeout bounds one call.
const callTimeout = 10 * time.Second

// Reply is what an echo answers: who it is, and what its proxy said of the caller.
type Reply struct {
	Service, Zone, Instance string
	// Caller and Self are SPIFFE IDs from X-Forwarded-Client-Cert: empty without mTLS.
	Caller, Self string
	// Protocol as the application saw it.
	Protocol string
	// Remote address, Host and Path of the request.
	Remote, Host, Path string
}

// Sample is one call.
type Sample struct {
	// Sent is when.
	Sent time.Time
	// Took until the answer or the error.
	Took time.Duration
	// Outcome is what tests count: the HTTP status ("200", "403"; gRPC's codes are
	// mapped to them, a TCP echo is "200") or "error".
	Outcome string
	// Reply of the other side, as far as it is an echo.
	Reply Reply
	// Err says what went wrong.
	Err string `json:",omitempty"`
}

// Caller keeps connections, as applications do.
type Caller struct {
	http, h2c *http.Client
	dial      func(ctx context.Context, network, address string) (net.Conn, error)

	mu  sync.Mutex
	rpc map[string]*grpc.ClientConn // by host:port
}

// NewCaller keeps no connection yet.
func NewCaller() *Caller {
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true)
	return &Caller{
		http: &http.Client{Timeout: callTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: 32}},
		h2c:  &http.Client{Timeout: callTimeout, Transport: &http.Transport{Protocols: h2c}},
		dial: (&net.Dialer{Timeout: callTimeout}).DialContext,
		rpc:  map[string]*grpc.ClientConn{},
	}
}

// Call makes one call; the sample says how it ended.
func (c *Caller) Call(ctx context.Context, target string) Sample {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s := Sample{Sent: time.Now(), Outcome: "error"}
	u, err := url.Parse(target)
	switch {
	case err != nil:
	case u.Scheme == "http":
		err = get(ctx, c.http, u, &s)
	case u.Scheme == "h2c":
		u.Scheme = "http"
		err = get(ctx, c.h2c, u, &s)
	case u.Scheme == "grpc":
		err = c.check(ctx, u.Host, &s)
	case u.Scheme == "tcp":
		err = c.line(ctx, u.Host, &s)
	default:
		err = fmt.Errorf("scheme %q: http, h2c, grpc and tcp are known", u.Scheme)
	}
	s.Took = time.Since(s.Sent)
	if err != nil {
		s.Err = err.Error()
	}
	return s
}

func get(ctx context.Context, client *http.Client, u *url.URL, s *Sample) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return err
	}
	s.Outcome = fmt.Sprint(resp.StatusCode)
	if json.Unmarshal(body, &s.Reply) != nil || resp.StatusCode != http.StatusOK {
		s.Err = fmt.Sprintf("%.200s", body)
	}
	return nil
}

func (c *Caller) check(ctx context.Context, host string, s *Sample) error {
	c.mu.Lock()
	conn := c.rpc[host]
	if conn == nil {
		var err error
		if conn, err = grpc.NewClient("dns:///"+host, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
			c.mu.Unlock()
			return err
		}
		c.rpc[host] = conn
	}
	c.mu.Unlock()
	var header metadata.MD
	_, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}, grpc.Header(&header))
	for _, text := range header.Get("reply") {
		if err := json.Unmarshal([]byte(text), &s.Reply); err != nil {
			return err
		}
	}
	switch status.Code(err) {
	case codes.OK:
		s.Outcome = "200"
	case codes.PermissionDenied:
		s.Outcome = "403"
	case codes.Unimplemented:
		s.Outcome = "404"
	}
	return err
}

// line makes a connection for one line: one that is refused ends without an answer.
func (c *Caller) line(ctx context.Context, host string, s *Sample) error {
	conn, err := c.dial(ctx, "tcp", host)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		return err
	}
	back, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	text, said, ok := strings.Cut(back, "} ")
	if !ok || said != "hello\n" {
		return fmt.Errorf("said hello, heard %q", back)
	}
	s.Outcome = "200"
	return json.Unmarshal([]byte(text+"}"), &s.Reply)
}
