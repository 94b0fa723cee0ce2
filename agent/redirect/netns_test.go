package redirect

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Addresses of the laboratory: a host whose traffic is redirected, and a peer.
const (
	host4, peer4 = "10.99.0.2", "10.99.0.1"
	host6, peer6 = "fd99::2", "fd99::1"
)

// lab is two network namespaces on a wire.
type lab struct{ host, peer string }

func newLab(t *testing.T) lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	id := fmt.Sprintf("redir%d-%x", os.Getpid(), time.Now().UnixNano()&0xffffff)
	l := lab{id + "h", id + "p"}
	run(t, "", "ip", "netns", "add", l.host)
	t.Cleanup(func() { run(t, "", "ip", "netns", "del", l.host) })
	run(t, "", "ip", "netns", "add", l.peer)
	t.Cleanup(func() { run(t, "", "ip", "netns", "del", l.peer) })
	run(t, "", "ip", "link", "add", "eth0", "netns", l.host, "type", "veth", "peer", "name", "eth0", "netns", l.peer)
	for _, end := range [][3]string{{l.host, host4, host6}, {l.peer, peer4, peer6}} {
		run(t, "", "ip", "-n", end[0], "addr", "add", end[1]+"/24", "dev", "eth0")
		run(t, "", "ip", "-n", end[0], "addr", "add", end[2]+"/64", "dev", "eth0", "nodad")
		run(t, "", "ip", "-n", end[0], "link", "set", "lo", "up")
		run(t, "", "ip", "-n", end[0], "link", "set", "eth0", "up")
	}
	run(t, "", "ip", "-n", l.host, "route", "add", "default", "via", peer4)
	run(t, "", "ip", "-n", l.host, "-6", "route", "add", "default", "via", peer6)
	return l
}

func (l lab) path() string { return "/run/netns/" + l.host }

func run(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, errs.String())
	}
	return out.String()
}

// as runs f in a namespace as a user and group: sockets that it opens stay there.
func as(t *testing.T, netns string, uid, gid int, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		// The thread is not unlocked, so it ends with the goroutine.
		runtime.LockOSThread()
		done <- func() error {
			file, err := os.Open("/run/netns/" + netns)
			if err != nil {
				return err
			}
			defer file.Close()
			if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			// The group first: another user may not change it.
			if _, err := unix.SetfsgidRetGid(gid); err != nil {
				return err
			}
			if _, err := unix.SetfsuidRetUid(uid); err != nil {
				return err
			}
			f()
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// arrival is a connection that a server took.
type arrival struct {
	server string
	to     string // SO_ORIGINAL_DST
	from   string
}

// serve answers every connection with what it knows of it.
func serve(t *testing.T, netns, name, address string) {
	t.Helper()
	as(t, netns, 0, 0, func() {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Errorf("listen %s: %v", address, err)
			return
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					fmt.Fprintf(c, "%s %s %s\n", name, originalDst(c), c.RemoteAddr())
					// An echo keeps it open for who wants it.
					buf := make([]byte, 64)
					for {
						n, err := c.Read(buf)
						if err != nil {
							return
						}
						if _, err := c.Write(buf[:n]); err != nil {
							return
						}
					}
				}()
			}
		}()
	})
}

func originalDst(c net.Conn) string {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err.Error()
	}
	out := "none"
	_ = raw.Control(func(fd uintptr) {
		if c.LocalAddr().(*net.TCPAddr).IP.To4() != nil {
			// sockaddr_in has the shape of the first 16 bytes of an ipv6_mreq.
			if a, err := unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST); err == nil {
				ip := netip.AddrFrom4([4]byte(a.Multiaddr[4:8]))
				out = netip.AddrPortFrom(ip, binary.BigEndian.Uint16(a.Multiaddr[2:4])).String()
			}
			return
		}
		if a, err := unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, unix.SO_ORIGINAL_DST); err == nil {
			port := a.Addr.Port>>8 | a.Addr.Port<<8
			out = netip.AddrPortFrom(netip.AddrFrom16(a.Addr.Addr), port).String()
		}
	})
	return out
}

// call returns who takes a connection to address, from source ("" is any).
func call(t *testing.T, netns string, uid, gid int, source, address string) (arrival, error) {
	t.Helper()
	return callWith(t, netns, uid, gid, source, address, 0)
}

// callWith is call with a socket priority.
func callWith(t *testing.T, netns string, uid, gid int, source, address string, priority int) (arrival, error) {
	t.Helper()
	c, err := dialWith(t, netns, uid, gid, source, address, priority)
	if err != nil {
		return arrival{}, err
	}
	defer c.Close()
	return greeting(c)
}

func dial(t *testing.T, netns string, uid, gid int, source, address string) (net.Conn, error) {
	t.Helper()
	return dialWith(t, netns, uid, gid, source, address, 0)
}

func dialWith(t *testing.T, netns string, uid, gid int, source, address string, priority int) (c net.Conn, err error) {
	t.Helper()
	as(t, netns, uid, gid, func() {
		d := net.Dialer{Timeout: 30 * time.Second}
		if source != "" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
		}
		d.Control = func(_, _ string, raw syscall.RawConn) error {
			var failed error
			err := raw.Control(func(fd uintptr) {
				failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY, priority)
			})
			return cmp.Or(err, failed)
		}
		c, err = d.Dial("tcp", address)
	})
	return c, err
}

func greeting(c net.Conn) (arrival, error) {
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return arrival{}, err
	}
	buf := make([]byte, 256)
	n, err := c.Read(buf)
	if err != nil {
		return arrival{}, err
	}
	words := strings.Fields(string(buf[:n]))
	if len(words) != 3 {
		return arrival{}, errors.New("unexpected greeting: " + string(buf[:n]))
	}
	return arrival{words[0], words[1], words[2]}, nil
}

func (l lab) list(t *testing.T) string {
	t.Helper()
	return run(t, "", "ip", "netns", "exec", l.host, "nft", "list", "ruleset")
}
