package postgres_test

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// proxy stands between a store and its database and does what networks do.
type proxy struct {
	dsn    string
	target string
	l      net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	// cutAt closes a connection that is about to carry these bytes, in either direction.
	cutAt []byte
	// stalled, when not nil, holds everything until it is closed.
	stalled chan struct{}
}

func newProxy(t *testing.T, dsn string) *proxy {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{target: u.Host, conns: map[net.Conn]bool{}}
	if p.l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	u.Host = p.l.Addr().String()
	p.dsn = u.String()
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		p.set(nil, false)
		p.l.Close()
		p.cutAll()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) set(cutAt []byte, stall bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAt = cutAt
	if stall && p.stalled == nil {
		p.stalled = make(chan struct{})
	}
	if !stall && p.stalled != nil {
		close(p.stalled)
		p.stalled = nil
	}
}

func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *proxy) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		end := func() {
			client.Close()
			server.Close()
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.conns, client)
			delete(p.conns, server)
		}
		p.wg.Go(func() { p.copy(client, server); end() })
		p.wg.Go(func() { p.copy(server, client); end() })
	}
}

func (p *proxy) copy(to io.Writer, from io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		cut, stalled := p.cutAt, p.stalled
		p.mu.Unlock()
		if stalled != nil {
			<-stalled
		}
		if len(cut) > 0 && bytes.Contains(buf[:n], cut) {
			return
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}
