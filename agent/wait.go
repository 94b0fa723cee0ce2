package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// waitInterval is short, since what waits is the start of an application.
const waitInterval = 20 * time.Millisecond

// Wait returns when the agent whose readiness is at address (host:port; no host
// means this one) says that its Envoy takes traffic. Its error says what is amiss
// when that does not come about until ctx ends.
func Wait(ctx context.Context, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("readiness address must be host:port: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableCompression: true, MaxIdleConns: 1}}
	defer client.CloseIdleConnections()
	var last error
	err = until(ctx, waitInterval, func() bool {
		err := askReady(ctx, client, "http://"+net.JoinHostPort(host, port)+"/started")
		if err != nil && ctx.Err() == nil {
			last = err
		}
		return err == nil
	})
	if err != nil {
		return fmt.Errorf("the proxy is not ready: %w", errors.Join(last, err))
	}
	return nil
}

func askReady(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	if response.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(text)))
	}
	return nil
}
