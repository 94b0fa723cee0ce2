// Package ports reserves ports of this machine for programs that cannot be handed
// a listener: Envoy, PostgreSQL, a server that a test ends and starts again where
// it was. In flows what the kernel says of its ports, out flows a number that
// nobody else takes until it is released.
//
// To listen on port 0, close, and bind that port later works until somebody's
// outgoing connection is given it meanwhile. The ports of here are outside of the
// range that the kernel gives away by itself, and reserved among all processes of
// the network namespace that reserve with this package, such as the tests of other
// packages.
package ports

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
)

const (
	// lowest and highest port that is given out. Below are those that services
	// and Envoy's listeners have by convention.
	lowest, highest = 20000, 65535
	// rangeFile holds the first and the last port that the kernel gives away.
	rangeFile = "/proc/sys/net/ipv4/ip_local_port_range"
	attempts  = 200
)

// Free is a port that nobody listens at, by TCP or UDP, on any address, reserved
// until the test ends. Whoever listens there should end before: start it later.
func Free(t testing.TB) int {
	t.Helper()
	port, release, err := Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return port
}

// Listen is a TCP listener on such a port of 127.0.0.1: after its end nobody
// answers there, or the test itself again.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(Free(t))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // the test may have closed it
	return l
}

// Reserve is Free for programs: the port is theirs until they release it, or end.
func Reserve() (port int, release func(), err error) {
	text, err := os.ReadFile(rangeFile)
	if err != nil {
		return 0, nil, fmt.Errorf("reserve a port: %w", err)
	}
	all, err := candidates(string(text))
	if err != nil {
		return 0, nil, fmt.Errorf("reserve a port: %s: %w", rangeFile, err)
	}
	// By chance, because clients of whoever had a port last may still come to it.
	for range attempts {
		port := all[rand.IntN(len(all))]
		if release, err = take(port); err == nil {
			return port, release, nil
		}
	}
	return 0, nil, fmt.Errorf("reserve a port: none of %d was free, the last: %w", attempts, err)
}

// candidates are the ports outside of the kernel's range, written as "32768 60999".
// Where that leaves too few, all are: one of them may be taken at any time.
func candidates(kernel string) ([]int, error) {
	fields := strings.Fields(kernel)
	if len(fields) != 2 {
		return nil, fmt.Errorf("%q is not two ports", kernel)
	}
	first, err1 := strconv.Atoi(fields[0])
	last, err2 := strconv.Atoi(fields[1])
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	var outside, all []int
	for port := lowest; port <= highest; port++ {
		all = append(all, port)
		if port < first || port > last {
			outside = append(outside, port)
		}
	}
	if len(outside) < 1000 {
		return all, nil
	}
	return outside, nil
}

// take reserves one port: an abstract Unix socket of its name is the lock, which
// belongs to the network namespace as the port does, and goes with its process.
func take(port int) (release func(), err error) {
	var lc net.ListenConfig
	ctx := context.Background() // nothing of this waits
	lock, err := lc.Listen(ctx, "unix", fmt.Sprintf("@tombolo-port-%d", port))
	if err != nil {
		return nil, err
	}
	release = func() { _ = lock.Close() } // nothing can be done about it
	everywhere := ":" + strconv.Itoa(port)
	tcp, err := lc.Listen(ctx, "tcp", everywhere)
	if err != nil {
		release()
		return nil, err
	}
	defer tcp.Close()
	udp, err := lc.ListenPacket(ctx, "udp", everywhere)
	if err != nil {
		release()
		return nil, err
	}
	_ = udp.Close()
	return release, nil
}
