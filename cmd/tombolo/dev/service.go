package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"
)

// Reply is what a demo service answers.
type Reply struct {
	// Service, Zone and Instance that answered.
	Service, Zone, Instance string
	// Caller and Self are the SPIFFE IDs that the server's sidecar saw and proved.
	Caller, Self string
}

var clientCert = regexp.MustCompile(`By=([^;,"]+).*;URI=([^;,"]+)`)

// Serve is the demo's application: it says who it is and who called, until ctx ends.
func Serve(ctx context.Context, address string, self Reply) error {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reply := self
		if m := clientCert.FindStringSubmatch(r.Header.Get("X-Forwarded-Client-Cert")); m != nil {
			reply.Self, reply.Caller = m[1], m[2]
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(reply); err != nil {
			return // the caller has gone
		}
	})
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", address, err)
	}
	return nil
}
