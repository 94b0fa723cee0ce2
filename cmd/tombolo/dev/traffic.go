package dev

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// traffic calls backend as web does, 50 times a second from the first answer to
// the end, and counts what was not as the story wants it.
type traffic struct {
	client *http.Client
	stop   context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	want    int // status that is right now; 0 accepts 200 and 403 while one turns into the other
	total   int
	wrong   int
	example string
}

func newClient() *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
}

func startTraffic(url string) *traffic {
	ctx, cancel := context.WithCancel(context.Background())
	t := &traffic{client: newClient(), stop: cancel, done: make(chan struct{}), want: http.StatusOK}
	go func() {
		defer close(t.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				sent := t.expected()
				_, status, err := call(t.client, url)
				t.count(sent, status, err)
			}
		}
	}()
	return t
}

// count takes the answer to a call: right by what was expected when it was sent, or
// by what is now. Between the two it may have been on its way for long.
func (t *traffic) count(sent, status int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total++
	right := func(want int) bool {
		return status == want || want == 0 && (status == http.StatusOK || status == http.StatusForbidden)
	}
	if !right(sent) && !right(t.want) {
		t.wrong++
		t.example = fmt.Sprintf("status %d instead of %d, %v", status, t.want, err)
	}
}

func (t *traffic) expected() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.want
}

// expect says which status is right from now on; 0 while it changes.
func (t *traffic) expect(status int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.want = status
}

func (t *traffic) sums() (total, wrong int, example string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total, t.wrong, t.example
}

func (t *traffic) end() {
	t.stop()
	<-t.done
}

// call makes one request.
func call(client *http.Client, url string) (Reply, int, error) {
	var reply Reply
	resp, err := client.Get(url)
	if err != nil {
		return reply, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		err = json.NewDecoder(resp.Body).Decode(&reply)
	}
	return reply, resp.StatusCode, err
}
