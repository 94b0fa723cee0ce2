package webhook

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bounds of a review. The API server stores objects of 1.5 MiB at most; an
// update carries two of them.
const (
	maxReview    = 8 << 20
	maxInFlight  = 64
	reviewBudget = 10 * time.Second
)

// Handler answers one admission review. A nil answer allows.
type Handler func(ctx context.Context, request *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse

// ServerConfig says what is served where.
type ServerConfig struct {
	// Address to listen on, default ":5443".
	Address string
	// TLS is the server's configuration, required; package certs makes one.
	TLS *tls.Config
	// Inject answers POST /inject, about pods as they are created.
	Inject Handler
	// Validate answers POST /validate, about Tombolo's own objects.
	Validate Handler
	// Log for what goes wrong; default discards.
	Log *slog.Logger
}

// Server is the HTTPS server of the webhooks. It keeps no state.
type Server struct {
	cfg ServerConfig
	// slots of reviews that are being answered; reading are those whose body is on
	// its way, by source.
	slots   chan struct{}
	reading *gate
	// budget bounds the time that a request's body takes.
	budget time.Duration
}

// NewServer checks the configuration. It does no I/O.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.TLS == nil {
		return nil, errors.New("webhook: tls is required")
	}
	if cfg.Address == "" {
		cfg.Address = ":5443"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, slots: make(chan struct{}, maxInFlight), reading: newGate(perSource), budget: bodyBudget}, nil
}

// Run serves until ctx ends, and then what is in flight.
func (s *Server) Run(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.Address)
	if err != nil {
		return fmt.Errorf("serve webhooks: %w", err)
	}
	return s.Serve(ctx, listener)
}

// Serve is Run on a listener, which it closes.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler: s.Handler(), TLSConfig: s.cfg.TLS,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: reviewBudget, WriteTimeout: 2 * reviewBudget, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewBudget)
		defer cancel()
		_ = server.Shutdown(bounded) // what is still in flight then is cut
	})
	err := server.ServeTLS(gated{listener, newGate(perSource)}, "", "")
	if !stop() {
		<-done
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve webhooks: %w", err)
}

// Handler serves the reviews, POST /inject and POST /validate, and GET /healthz.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for path, handler := range map[string]Handler{"POST /inject": s.cfg.Inject, "POST /validate": s.cfg.Validate} {
		if handler != nil {
			mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { s.review(w, r, handler) })
		}
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	return mux
}

func (s *Server) review(w http.ResponseWriter, r *http.Request, handler Handler) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		http.Error(w, "Content-Type must be application/json", http.StatusUnsupportedMediaType)
		return
	}
	body, ok := s.read(w, r)
	if !ok {
		return
	}
	// Whoever has sent everything waits its turn: no more than so many are decoded
	// and answered at a time, which takes us and the API server alone.
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-r.Context().Done():
		return
	}
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &review); err != nil {
		http.Error(w, "body must be an AdmissionReview: "+err.Error(), http.StatusBadRequest)
		return
	}
	if review.APIVersion != admissionv1.SchemeGroupVersion.String() || review.Kind != "AdmissionReview" || review.Request == nil {
		http.Error(w, "body must be an AdmissionReview of admission.k8s.io/v1 with a request", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), reviewBudget)
	defer cancel()
	response := handler(ctx, review.Request)
	if response == nil {
		response = &admissionv1.AdmissionResponse{Allowed: true}
	}
	response.UID = review.Request.UID
	if !response.Allowed {
		s.cfg.Log.Info("refused", "path", r.URL.Path, "kind", review.Request.Kind.Kind, "namespace", review.Request.Namespace, "name", review.Request.Name, "reason", messageOf(response))
	}
	w.Header().Set("Content-Type", "application/json")
	answer := admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: review.APIVersion, Kind: review.Kind}, Response: response}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		s.cfg.Log.Debug("answer not sent", "err", err)
	}
}

// read takes the body of a request. Those of one source that dawdle are in nobody
// else's way.
func (s *Server) read(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	ctx, cancel := context.WithTimeout(r.Context(), s.budget)
	defer cancel()
	leave, ok := s.reading.enter(ctx, host(r.RemoteAddr))
	if !ok {
		http.Error(w, fmt.Sprintf("%d requests of this address are being read, the most allowed", perSource), http.StatusTooManyRequests)
		return nil, false
	}
	defer leave()
	hurry(w, s.budget)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReview))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		http.Error(w, fmt.Sprintf("body must have at most %d bytes", maxReview), http.StatusRequestEntityTooLarge)
	case err != nil:
		http.Error(w, fmt.Sprintf("body must be sent within %s: %v", s.budget, err), http.StatusRequestTimeout)
	}
	return body, err == nil
}

func messageOf(r *admissionv1.AdmissionResponse) string {
	if r.Result == nil {
		return ""
	}
	return r.Result.Message
}

// refuse is an answer that tells the user what to change.
func refuse(code int32, reason metav1.StatusReason, message string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}
