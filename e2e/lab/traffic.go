package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Sample is one request of a Traffic.
type Sample struct {
	// Sent is when.
	Sent time.Time
	// Took until the answer or the error.
	Took time.Duration
	// Status of the answer; 0 for an error.
	Status int
	// Body of the answer, at most 1 KiB.
	Body string
	// Err when there was no answer.
	Err error
}

// Traffic is requests at a steady rate, whatever happens to the earlier ones.
type Traffic struct {
	stop context.CancelFunc
	wait sync.WaitGroup

	mu      sync.Mutex
	samples []Sample
	calls   int               // that were begun
	open    map[int]time.Time // of those that have not ended, when they were begun
}

// Client makes requests from the host; connections are kept and shared.
func (h *Host) Client(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{DialContext: h.Dial, MaxIdleConnsPerHost: 64}}
}

// Send calls a URL from the host at a rate a second, until Stop. Requests do not
// wait for each other; connections are kept and shared.
func (h *Host) Send(url string, rate int) *Traffic {
	client := h.Client(10 * time.Second)
	return Repeat(rate, func() Sample { return Get(client, url) })
}

// SendShort is Send with a connection for each request.
func (h *Host) SendShort(url string, rate int) *Traffic {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: h.Dial, DisableKeepAlives: true}}
	return Repeat(rate, func() Sample { return Get(client, url) })
}

// Repeat makes calls at a rate a second, until Stop. Calls do not wait for each
// other; at most 1,000 are open, more are counted as failed.
func Repeat(rate int, call func() Sample) *Traffic {
	ctx, cancel := context.WithCancel(context.Background())
	t := &Traffic{stop: cancel, open: map[int]time.Time{}}
	slots := make(chan struct{}, 1000)
	t.wait.Add(1)
	go func() {
		defer t.wait.Done()
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case slots <- struct{}{}:
				t.wait.Add(1)
				end := t.begin()
				go func() {
					defer t.wait.Done()
					t.add(call())
					end()
					<-slots
				}()
			default:
				t.add(Sample{Sent: time.Now(), Err: fmt.Errorf("1,000 calls are open")})
			}
		}
	}()
	return t
}

// Hold keeps one connection from the host to an echo server and says a line on
// it at a rate a second, until Stop. When the connection breaks, that line and
// the later ones fail: it is not made again.
func (h *Host) Hold(address string, rate int) *Traffic {
	ctx, cancel := context.WithCancel(context.Background())
	t := &Traffic{stop: cancel, open: map[int]time.Time{}}
	t.wait.Add(1)
	go func() {
		defer t.wait.Done()
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		conn, err := h.Dial(ctx, "tcp", address)
		if err == nil {
			defer conn.Close()
		}
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			end := t.begin()
			s := Sample{Sent: time.Now()}
			if err == nil {
				s.Body, err = echo(conn, fmt.Sprintf("line %d\n", n))
			}
			s.Took, s.Err = time.Since(s.Sent), err
			t.add(s)
			end()
		}
	}()
	return t
}

// Echo connects to an echo server, says a line and hears it again.
func (h *Host) Echo(address string) (s Sample) {
	s.Sent = time.Now()
	defer func() { s.Took = time.Since(s.Sent) }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := h.Dial(ctx, "tcp", address)
	if err != nil {
		s.Err = err
		return s
	}
	defer conn.Close()
	s.Body, s.Err = echo(conn, "hello\n")
	return s
}

func echo(conn net.Conn, line string) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, line); err != nil {
		return "", err
	}
	back := make([]byte, len(line))
	if _, err := io.ReadFull(conn, back); err != nil {
		return "", err
	}
	if string(back) != line {
		return "", fmt.Errorf("said %q, heard %q", line, back)
	}
	return line, nil
}

// Get makes one request.
func Get(client *http.Client, url string) (s Sample) {
	s.Sent = time.Now()
	defer func() { s.Took = time.Since(s.Sent) }()
	resp, err := client.Get(url)
	if err != nil {
		s.Err = err
		return s
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1024))
	s.Status, s.Body, s.Err = resp.StatusCode, string(body), err
	return s
}

func (t *Traffic) add(s Sample) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.samples = append(t.samples, s)
}

func (t *Traffic) begin() (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calls++
	id := t.calls
	t.open[id] = time.Now()
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.open, id)
	}
}

// Settled is a time before which nothing was sent that is still on its way: what
// changes from now on does not concern what was sent until then. It waits for that.
func (t *Traffic) Settled() time.Time {
	now := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for t.openSince(now) {
		<-tick.C
	}
	return now
}

// openSince reports whether a call that was begun before a time has not ended.
func (t *Traffic) openSince(before time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, begun := range t.open {
		if begun.Before(before) {
			return true
		}
	}
	return false
}

// Stop ends the traffic and waits for open requests.
func (t *Traffic) Stop() {
	t.stop()
	t.wait.Wait()
}

// Since returns the samples sent at or after a time, in the order of their ends.
func (t *Traffic) Since(from time.Time) []Sample {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Sample
	for _, s := range t.samples {
		if !s.Sent.Before(from) {
			out = append(out, s)
		}
	}
	return out
}

// Count counts the samples sent in [from, to) that ok accepts, and the others.
func (t *Traffic) Count(from, to time.Time, ok func(Sample) bool) (good int, bad []Sample) {
	for _, s := range t.Since(from) {
		switch {
		case !s.Sent.Before(to):
		case ok(s):
			good++
		default:
			bad = append(bad, s)
		}
	}
	return good, bad
}

// Status accepts samples with a status.
func Status(status int) func(Sample) bool {
	return func(s Sample) bool { return s.Err == nil && s.Status == status }
}

// Answered accepts samples that have no error.
func Answered(s Sample) bool { return s.Err == nil }

// Recovery is how long after from the last sample was sent that ok refuses, and
// how many there were.
func (t *Traffic) Recovery(from time.Time, ok func(Sample) bool) (time.Duration, int) {
	var last time.Duration
	failed := 0
	for _, s := range t.Since(from) {
		if !ok(s) {
			failed++
			last = max(last, s.Sent.Sub(from))
		}
	}
	return last, failed
}
