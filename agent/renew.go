package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"time"

	"github.com/tombolo-mesh/tombolo/identity"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

const (
	// signTimeout is how long a request for a certificate may stay unanswered.
	signTimeout = 10 * time.Second
	// Retries after a refusal: doubled from the first to the last.
	firstRetry = 500 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// renewer keeps the certificate fresh: a new key for each, asked for at half
// life. It belongs to the one goroutine that talks to the zone, and outlives its
// connections.
type renewer struct {
	log     *slog.Logger
	publish func(chain, key []byte) error

	// timer fires when a certificate is to be asked for.
	timer   *time.Timer
	lastID  uint64
	pending *ecdsa.PrivateKey // key of the request in flight
	retry   time.Duration
	renewAt time.Time // zero until there is a certificate
	reason  string    // of the last refusal, to log each once
}

func newRenewer(log *slog.Logger, publish func(chain, key []byte) error) *renewer {
	r := &renewer{log: log, publish: publish, timer: time.NewTimer(time.Hour), retry: firstRetry}
	r.timer.Stop()
	return r
}

// connected arms the timer for a new connection: at once without a certificate,
// else when the one at hand is due.
func (r *renewer) connected() {
	r.pending, r.retry = nil, firstRetry
	r.timer.Reset(max(0, time.Until(r.renewAt)))
}

// disconnected stops asking.
func (r *renewer) disconnected() {
	r.pending = nil
	r.timer.Stop()
}

// resign asks now, since the zone says so.
func (r *renewer) resign() {
	r.pending, r.retry = nil, firstRetry
	r.timer.Reset(0)
}

// request makes the next key and the request for it. The timer then guards the answer.
func (r *renewer) request() (*agentv1.SignRequest, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	r.lastID++
	r.pending = key
	r.timer.Reset(signTimeout)
	return &agentv1.SignRequest{Id: r.lastID, Csr: csr}, nil
}

// signed takes the zone's answer. An answer to an older request is ignored.
func (r *renewer) signed(m *agentv1.Signed) {
	if r.pending == nil || m.Id != r.lastID {
		return
	}
	err := r.accept(m)
	r.pending = nil
	if err != nil {
		if err.Error() != r.reason {
			r.reason = err.Error()
			r.log.Warn("no certificate", "error", err)
		}
		r.timer.Reset(jitter(r.retry))
		r.retry = min(2*r.retry, lastRetry)
		return
	}
	r.reason, r.retry = "", firstRetry
	wait := renewal(m.RenewAt.AsTime(), m.NotAfter.AsTime())
	r.renewAt = time.Now().Add(wait)
	r.timer.Reset(wait)
	r.log.Info("certificate", "spiffe_id", m.SpiffeId, "not_after", m.NotAfter.AsTime(), "renew_in", wait.Round(time.Second))
}

func (r *renewer) accept(m *agentv1.Signed) error {
	if m.Error != "" {
		return errors.New(m.Error)
	}
	svid, err := identity.ParseSVID(m.Chain)
	if err != nil {
		return err
	}
	if !svid.For(r.pending.Public()) {
		return errors.New("the zone signed another key than the agent's")
	}
	der, err := x509.MarshalPKCS8PrivateKey(r.pending)
	if err != nil {
		return fmt.Errorf("marshal key: %w", err)
	}
	return r.publish(svid.PEM(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// renewal is how long after the arrival of a certificate the next is asked for.
// The zone says when half of its life is over; what is taken from that is the
// length of a half, which holds on a clock that differs, too. Up to a tenth is
// cut off at random, so that proxies do not renew in step.
func renewal(renewAt, notAfter time.Time) time.Duration {
	return max(jitter(notAfter.Sub(renewAt)), time.Second)
}

// jitter cuts up to a tenth off.
func jitter(d time.Duration) time.Duration {
	if d < 10 {
		return d
	}
	return d - mathrand.N(d/10)
}
