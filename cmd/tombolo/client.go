package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/global/api"
	"github.com/tombolo-mesh/tombolo/identity/token"
)

const (
	callTime = time.Minute
	// maxAnswer bounds what is read into memory.
	maxAnswer = 256 << 20
)

// client calls the API of one context.
type client struct {
	server, token string
	http          *http.Client
}

// dial makes the client of the command's context; no I/O on the network yet.
func dial(cmd *cobra.Command) (*client, error) {
	all, err := loadContexts()
	if err != nil {
		return nil, err
	}
	name, err := cmd.Flags().GetString("context")
	if err != nil {
		return nil, err
	}
	r, err := all.pick(name)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(r.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("context %q: read token: %w", r.Name, err)
	}
	if len(raw) > token.MaxSize {
		return nil, fmt.Errorf("context %q: %s is too large for a token", r.Name, r.TokenFile)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13}
	if r.CA != "" {
		pem, err := os.ReadFile(r.CA)
		if err != nil {
			return nil, fmt.Errorf("context %q: read certificates: %w", r.Name, err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("context %q: %s has no certificate", r.Name, r.CA)
		}
	}
	transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 10 * time.Second}
	return &client{server: r.Server, token: strings.TrimSpace(string(raw)), http: &http.Client{Transport: transport,
		// The API sends nobody elsewhere; a token goes to the context's server and to no other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// refusal is a problem that the server answered with.
type refusal struct{ api.Problem }

func (r *refusal) Error() string {
	var b strings.Builder
	b.WriteString(r.Title)
	if r.Detail != "" && len(r.Invalid) == 0 {
		b.WriteString(": " + r.Detail)
	}
	for _, x := range r.Invalid {
		fmt.Fprintf(&b, "\n  %s: %s", x.Field, x.Reason)
	}
	return b.String()
}

// open sends a request and returns a good answer's body, or the refusal.
func (c *client) open(ctx context.Context, method, path string, query url.Values, media string, body []byte) (*http.Response, error) {
	target := c.server + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	if media != "" {
		req.Header.Set("Content-Type", media)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 8<<20)) // what there is of an error
	r := &refusal{}
	if json.Unmarshal(data, &r.Problem) != nil || r.Title == "" {
		return nil, fmt.Errorf("%s answered %s", c.server, resp.Status)
	}
	if r.Status == http.StatusServiceUnavailable {
		return nil, &exitError{exitOffline, r.Error()}
	}
	return nil, r
}

func unreachable(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		if errors.Is(u.Err, context.Canceled) {
			return u.Err
		}
		return &exitError{exitOffline, fmt.Sprintf("global cannot be reached: %v", u.Err)}
	}
	return &exitError{exitOffline, err.Error()}
}

// call sends a request and decodes the answer, bounded in time and size.
func (c *client) call(ctx context.Context, method, path string, query url.Values, media string, body []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	resp, err := c.open(ctx, method, path, query, media, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return unreachable(err)
	}
	if len(data) > maxAnswer {
		return fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("the answer of %s is no JSON: %w", c.server, err)
	}
	return nil
}

func (c *client) get(ctx context.Context, path string, query url.Values, into any) error {
	return c.call(ctx, http.MethodGet, path, query, "", nil, into)
}

func (c *client) post(ctx context.Context, path string, body, into any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, path, nil, "application/json", data, into)
}
