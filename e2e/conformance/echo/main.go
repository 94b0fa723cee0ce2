// Command echo is the workload of the Gateway API's mesh conformance tests: it
// takes the arguments of their manifests and prints what they parse. Called as
// client it makes requests:
//
//	client http://echo/path --method=GET -H name:value --count=3
//	client grpc://echo:7070 --count=100
//
// Called by another name it serves, and what it answers to requests is text in
// which each line names a field.
package main

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func main() {
	log.SetFlags(0)
	run := serve
	if filepath.Base(os.Args[0]) == "client" {
		run = client
	}
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

// serve opens each port; one that --tls names speaks TLS.
func serve(args []string) error {
	var ports []string
	secure := map[string]bool{}
	failed := make(chan error)
	for _, arg := range args {
		switch name, value, _ := strings.Cut(arg, "="); name {
		case "--port":
			ports = append(ports, value)
		case "--tls":
			secure[value] = true
		case "--grpc":
			go func() { failed <- serveGRPC(value) }()
		case "--tcp":
			go func() { failed <- serveTCP(value) }()
		case "--crt", "--key":
		default:
			return fmt.Errorf("argument %q is not known", arg)
		}
	}
	if len(args) == 0 { // some of the tests' manifests have none
		ports = []string{"8080"}
	}
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	for _, port := range ports {
		both := new(http.Protocols)
		both.SetHTTP1(true)
		both.SetUnencryptedHTTP2(true)
		s := &http.Server{Addr: ":" + port, Handler: answer(port), Protocols: both, ReadHeaderTimeout: 10 * time.Second}
		go func() {
			if secure[port] {
				s.Protocols = nil
				s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
				failed <- s.ListenAndServeTLS("", "")
				return
			}
			failed <- s.ListenAndServe()
		}()
	}
	return <-failed
}

func answer(port string) http.Handler {
	host, _ := os.Hostname()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprintf(w, "Hostname=%s\nServicePort=%s\nHost=%s\nURL=%s\nMethod=%s\nProto=%s\n", host, port, r.Host, r.URL.RequestURI(), r.Method, r.Proto)
		fmt.Fprintf(w, "RequestHeader=Host:%s\n", r.Host)
		printHeader(w, "RequestHeader", r.Header)
	})
}

func printHeader(w io.Writer, field string, h http.Header) {
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, value := range h[name] {
			fmt.Fprintf(w, "%s=%s:%s\n", field, name, value)
		}
	}
}

type health struct {
	healthv1.UnimplementedHealthServer
}

// Check implements healthv1.HealthServer.
func (health) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	return &healthv1.HealthCheckResponse{}, grpc.SetHeader(ctx, metadata.Pairs("hostname", host))
}

func serveGRPC(port string) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	healthv1.RegisterHealthServer(s, health{})
	return s.Serve(l)
}

func serveTCP(port string) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if _, err := fmt.Fprintf(conn, "StatusCode=200\nHostname=%s\n", host); err != nil {
				return
			}
			_, err := io.Copy(conn, conn)
			if err != nil {
				return
			}
		}()
	}
}

// client makes --count requests, one after the other, and prints what came back
// with a blank line between them.
func client(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: client URL [--method=M] [-H name:value]... [--count=N]")
	}
	u, err := url.Parse(args[0])
	if err != nil {
		return err
	}
	method, count, header := "GET", 1, http.Header{}
	for rest := args[1:]; len(rest) > 0; rest = rest[1:] {
		name, value, _ := strings.Cut(rest[0], "=")
		switch {
		case name == "--method":
			method = value
		case name == "--count":
			if count, err = strconv.Atoi(value); err != nil {
				return err
			}
		case name == "-H" && len(rest) > 1:
			k, v, _ := strings.Cut(rest[1], ":")
			header.Set(k, strings.TrimSpace(v))
			rest = rest[1:]
		default:
			return fmt.Errorf("argument %q is not known", rest[0])
		}
	}
	request := func() (string, error) { return callHTTP(method, u, header) }
	if u.Scheme == "grpc" {
		conn, err := grpc.NewClient(u.Host, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		request = func() (string, error) { return callGRPC(conn, header) }
	}
	for range count {
		out, err := request()
		if err != nil {
			return err
		}
		fmt.Println(out)
	}
	return nil
}

// callHTTP follows no redirect, for it is the redirect that is tested.
func callHTTP(method string, u *url.URL, header http.Header) (string, error) {
	c := http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequest(method, u.String(), nil)
	if err != nil {
		return "", err
	}
	req.Header = header.Clone()
	req.Host = cmp.Or(header.Get("Host"), u.Host)
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	var out strings.Builder
	fmt.Fprintf(&out, "StatusCode=%d\n", resp.StatusCode)
	printHeader(&out, "ResponseHeader", resp.Header)
	out.Write(body)
	return strings.TrimRight(out.String(), "\n") + "\n", nil
}

// callGRPC says gRPC's codes as the tests expect them: 200 is OK.
func callGRPC(conn *grpc.ClientConn, header http.Header) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for k := range header {
		ctx = metadata.AppendToOutgoingContext(ctx, k, header.Get(k))
	}
	var md metadata.MD
	code := 200
	if _, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}, grpc.Header(&md)); err != nil {
		code = int(status.Code(err))
	}
	return fmt.Sprintf("StatusCode=%d\nHostname=%s\nProto=GRPC\n", code, strings.Join(md.Get("hostname"), "")), nil
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"echo"}, NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
