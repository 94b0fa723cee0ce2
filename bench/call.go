package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	toRemote = "http://127.77.1.10:8081/"  // web's way to backend of west: two sidecars and west's ingress
	direct   = "http://127.77.2.20:18080/" // its application
	callRate = 500                         // a second
	// callTurns of a second each go to one, then to the other, so that what disturbs
	// the machine disturbs both.
	callTurns = 10
)

// crossZone compares calls from east to west through the mesh with the same calls made
// to the application itself.
func crossZone(ctx context.Context, _ *api, _ string, _ int) ([]row, error) {
	urls := []string{direct, toRemote}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	took := make([][]time.Duration, len(urls))
	for turn := range callTurns + 1 {
		for i, url := range urls {
			all, err := callAt(ctx, client, url, callRate, time.Second)
			if err != nil {
				return nil, err
			}
			if turn > 0 { // the first opens connections
				took[i] = append(took[i], all...)
			}
		}
	}
	bare, meshed := quantile(took[0], 0.5), quantile(took[1], 0.5)
	return []row{
		{what: fmt.Sprintf("cross-zone call, two sidecars and ingress with mTLS, over a direct one at %d a second, p50", callRate), got: meshed - bare, budget: new(0.8), unit: "ms"},
		{what: "of it the direct call, p50", got: bare, unit: "ms"},
		{what: "the cross-zone call, p99", got: quantile(took[1], 0.99), unit: "ms"},
		{what: "the direct call, p99", got: quantile(took[0], 0.99), unit: "ms"},
	}, nil
}

// callAt calls at a rate, whether or not earlier calls have been answered, and times each
// from the moment that it was due: what makes one late makes all those late that wait
// behind it, and they say so.
func callAt(ctx context.Context, client *http.Client, url string, rate int, length time.Duration) ([]time.Duration, error) {
	n := int(length.Seconds() * float64(rate))
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	var wg sync.WaitGroup
	began := time.Now()
	for i := range n {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(rate))
		if err := rest(ctx, time.Until(due)); err != nil {
			return nil, err
		}
		wg.Go(func() {
			err := call(ctx, client, url)
			d := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			if took = append(took, d); err != nil {
				failed = err
			}
		})
	}
	wg.Wait()
	if failed != nil {
		return nil, failed
	}
	return took, nil
}

func call(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}
