package global

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tombolo-mesh/tombolo/global/peers"
	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/postgres"
)

// shared is what instances on one database have in common beside resources.
type shared struct {
	db   *postgres.Store
	keys *store.Keyring
}

// join makes this process one of several instances.
func (g *Global) join(ctx context.Context, s *shared, instance string, reg prometheus.Registerer) (*peers.Peers, error) {
	from, err := s.db.LocalIP(ctx)
	if err != nil {
		return nil, err
	}
	address := advertised(g.zones, from)
	if g.cfg.AdvertiseAddress != "" {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("address for other instances: %w", err)
		}
		address = withPort(g.cfg.AdvertiseAddress, port)
	}
	return peers.New(peers.Config{Instance: instance, Address: address, Roster: s.db, Keys: s.keys, Version: g.cfg.Version, Log: g.log, Registerer: reg})
}

// advertised is where others reach a listener: at its own address, or else at the
// one that this process reaches the database from, which all instances do.
func advertised(listener net.Addr, from net.IP) string {
	host, port, err := net.SplitHostPort(listener.String())
	if err != nil {
		return listener.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if from != nil {
			host = from.String()
		}
	}
	return net.JoinHostPort(host, port)
}

// withPort adds a port to an address that has none.
func withPort(address, port string) string {
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.Trim(address, "[]"), port)
}

// alone lists the one instance that there is without a database to share.
func alone(id, address, version string) func() []peers.Instance {
	self := peers.Instance{ID: id, Address: address, Version: version, Self: true, Connected: true, Since: time.Now()}
	return func() []peers.Instance { return []peers.Instance{self} }
}

// instance names this process, differently at each start.
func instance() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	id := make([]byte, 4)
	rand.Read(id) // never fails
	return host + "-" + hex.EncodeToString(id)
}
