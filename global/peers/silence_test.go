package peers

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestSilence: a connection on which nothing comes ends soon and not too soon, and that
// of an older instance, which does not beat, lasts.
func TestSilence(t *testing.T) {
	for name, c := range map[string]struct {
		older bool
		pause time.Duration
		ends  bool
	}{
		"silent":                       {pause: time.Minute, ends: true},
		"slow":                         {pause: silence + lastWord - time.Millisecond},
		"silent, and of older version": {pause: time.Minute, older: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				far, near := net.Pipe()
				defer synctest.Wait()
				defer far.Close()
				var older atomic.Bool
				older.Store(c.older)
				defer time.AfterFunc(c.pause, func() { _, _ = far.Write([]byte{1}) }).Stop()
				conn, began := attentiveConn{near, &older}, time.Now()
				_, err := conn.Read(make([]byte, 1))
				took := time.Since(began)
				if !c.ends {
					if err != nil || took != c.pause {
						t.Errorf("after %s: %v", took, err)
					}
					return
				}
				if err == nil || took != silence+lastWord || !strings.Contains(err.Error(), "silent for 3.5s") {
					t.Errorf("after %s: %v", took, err)
				}
				if _, err := conn.Write([]byte{1}); err == nil {
					t.Error("who writes is not told")
				}
			})
		})
	}
}
