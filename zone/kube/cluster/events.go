package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// Bounds of Events: each costs the API server a write.
const (
	// The same Event about the same object is told once in eventPause.
	eventPause = 10 * time.Minute
	// maxEvents are remembered, and wait, at most. What is more is dropped.
	maxEvents = 4096
	queued    = 256
	// One is written each eventEvery.
	eventEvery   = 200 * time.Millisecond
	eventTimeout = 5 * time.Second
	maxEventText = 1024
)

// Recorder writes Events: what an operator sees with kubectl describe. They are a
// courtesy: nothing waits for them, and what is too much is dropped.
type Recorder struct {
	core      rest.Interface
	component string
	log       *slog.Logger
	queue     chan *corev1.Event

	mu   sync.Mutex
	told map[string]time.Time
}

func newRecorder(core rest.Interface, component string, log *slog.Logger) *Recorder {
	return &Recorder{core: core, component: component, log: log, queue: make(chan *corev1.Event, queued), told: map[string]time.Time{}}
}

// Warn tells of something about an object that its owner should change. The
// reason is a word in CamelCase.
func (r *Recorder) Warn(about corev1.ObjectReference, reason, message string) {
	r.put(corev1.EventTypeWarning, about, reason, message)
}

// Note tells of something that is as it should be.
func (r *Recorder) Note(about corev1.ObjectReference, reason, message string) {
	r.put(corev1.EventTypeNormal, about, reason, message)
}

func (r *Recorder) put(kind string, about corev1.ObjectReference, reason, message string) {
	if len(message) > maxEventText {
		message = strings.ToValidUTF8(message[:maxEventText], "")
	}
	now := time.Now()
	if !r.fresh(now, about.Kind+"/"+about.Namespace+"/"+about.Name+"/"+string(about.UID)+"/"+reason+"/"+message) {
		return
	}
	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	name := about.Name // an Event's name is its object's and a suffix
	if len(name) > 200 {
		name = name[:200]
	}
	suffix := make([]byte, 8)
	_, _ = rand.Read(suffix) // never fails
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: name + "." + hex.EncodeToString(suffix)},
		InvolvedObject: about, Type: kind, Reason: reason, Message: message,
		Source: corev1.EventSource{Component: r.component}, ReportingController: r.component,
		FirstTimestamp: metav1.NewTime(now), LastTimestamp: metav1.NewTime(now), Count: 1,
	}
	select {
	case r.queue <- e:
	default:
		r.log.Debug("event dropped: too many at once", "reason", reason, "namespace", about.Namespace, "name", about.Name)
	}
}

// fresh reports whether an Event was not told lately.
func (r *Recorder) fresh(now time.Time, id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.told[id]; ok && now.Sub(at) < eventPause {
		return false
	}
	if len(r.told) >= maxEvents {
		for id, at := range r.told {
			if now.Sub(at) >= eventPause {
				delete(r.told, id)
			}
		}
		if len(r.told) >= maxEvents {
			return false
		}
	}
	r.told[id] = now
	return true
}

// Run writes Events until ctx ends.
func (r *Recorder) Run(ctx context.Context) {
	limit := time.NewTicker(eventEvery)
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-r.queue:
			r.write(ctx, e)
		}
		select {
		case <-ctx.Done():
			return
		case <-limit.C:
		}
	}
}

func (r *Recorder) write(ctx context.Context, e *corev1.Event) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	if err := r.core.Post().Namespace(e.Namespace).Resource("events").Body(e).Do(ctx).Error(); err != nil {
		r.log.Debug("event not written", "namespace", e.Namespace, "reason", e.Reason, "error", err)
	}
}
