package state

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/tombolo-mesh/tombolo/zone/disk"
)

// Run writes what is due, as long as this instance leads, and watches what
// another one writes: adopt is called with what is new to this one. It returns
// when ctx ends, after a last attempt to write.
func (s *Store) Run(ctx context.Context, adopt func(disk.Update)) error {
	done := make(chan struct{})
	go func() { defer close(done); s.watch(ctx, adopt) }()
	s.write(ctx, adopt)
	<-done
	return nil
}

// Lead must be called when this instance begins to lead: it writes everything
// that the former leader's Secrets lack.
func (s *Store) Lead() {
	s.mu.Lock()
	for i := range s.dirty {
		s.dirty[i] = true
	}
	s.meta, s.refused, s.refusedStale = true, true, true
	s.mu.Unlock()
	s.stale.Store(true)
	s.poke()
}

func (s *Store) write(ctx context.Context, adopt func(disk.Update)) {
	pause := flushPause
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
			if err := errors.Join(s.flush(last), s.flushQuarantine(last)); err != nil {
				s.cfg.Log.Warn("state not written at the end", "error", err)
			}
			cancel()
			return
		case <-s.wake:
		}
		s.mu.Lock()
		news := s.news
		s.news = nil
		s.mu.Unlock()
		for _, u := range news {
			adopt(u)
		}
		if err := errors.Join(s.flush(ctx), s.flushQuarantine(ctx)); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("state not written, trying on", "error", err, "next", pause)
			s.poke()
			pause = min(2*pause, maxPause)
		} else {
			pause = flushPause
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// flush writes the shards that are due and then what is shared, with the seal of
// both. What a follower has to write is written when it leads.
func (s *Store) flush(ctx context.Context) error {
	if !s.cfg.Leads() {
		return nil
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.refresh(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	dirty, meta, at := s.dirty, s.meta, s.tables.position
	s.dirty, s.meta = [shards]bool{}, false
	var contents [shards]shard
	var errs []error
	var unfit [shards]bool
	for n, is := range dirty {
		if !is {
			continue
		}
		var err error
		if contents[n], err = s.tables.shard(n); err != nil {
			errs, unfit[n] = append(errs, err), true
		}
	}
	s.mu.Unlock()
	again := func(err error) error {
		s.mu.Lock()
		for i := range dirty {
			s.dirty[i] = s.dirty[i] || dirty[i]
		}
		s.meta = s.meta || meta
		s.mu.Unlock()
		return err
	}
	for n, is := range dirty {
		if !is || unfit[n] {
			continue
		}
		switch err := s.put(ctx, shardName(n), contents[n]); {
		case errors.Is(err, errTooLarge):
			errs = append(errs, err)
		case err != nil:
			return again(errors.Join(append(errs, err)...))
		default:
			dirty[n] = false
		}
	}
	s.mu.Lock()
	if len(errs) == 0 { // else the former seal holds for none of the shards any more
		s.sealed = sealOf(at, s.written)
	}
	next := s.tables.shared(s.cfg.Zone, s.sealed)
	s.mu.Unlock()
	meta = true // until it is written
	if err := s.put(ctx, SecretName, next); err != nil {
		return again(errors.Join(append(errs, err)...))
	}
	meta = false
	if len(errs) > 0 {
		return again(errors.Join(errs...))
	}
	return nil
}

// refresh learns what the former leader left: what is the same need not be
// written, and what is not must be.
func (s *Store) refresh(ctx context.Context) error {
	if !s.stale.Swap(false) {
		return nil
	}
	for n := range shards {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		var there shard
		err := s.get(call, shardName(n), &there)
		cancel()
		if err != nil {
			s.stale.Store(true)
			return err
		}
	}
	if err := s.meet(ctx, SecretName, shared{}); err != nil {
		s.stale.Store(true)
		return err
	}
	return nil
}

// put writes one Secret, if it is not as that already. A write that meets another
// one's is tried again over it: the leader's counts.
func (s *Store) put(ctx context.Context, name string, v any) error {
	data, err := s.pack(v)
	if err != nil {
		return fmt.Errorf("secret %s: %w", name, err)
	}
	sum := sha256.Sum256(data)
	if s.written[name] == sum && s.versions[name] != "" {
		return nil
	}
	const attempts = 3
	for range attempts {
		o := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Secret", "type": "tombolo.io/state",
			"metadata": map[string]any{"name": name, "namespace": s.cfg.Namespace, "labels": map[string]any{"app.kubernetes.io/managed-by": "tombolo", "tombolo.io/zone": s.cfg.Zone}},
			"data":     map[string]any{dataKey: base64.StdEncoding.EncodeToString(data)},
		}}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		var got *unstructured.Unstructured
		if version := s.versions[name]; version == "" {
			got, err = s.client().Create(call, o, metav1.CreateOptions{})
		} else {
			o.SetResourceVersion(version)
			got, err = s.client().Update(call, o, metav1.UpdateOptions{})
		}
		cancel()
		switch {
		case err == nil:
			s.versions[name], s.written[name] = got.GetResourceVersion(), sum
			return nil
		case apierrors.IsNotFound(err):
			delete(s.versions, name)
			delete(s.written, name)
		case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
			if err := s.meet(ctx, name, v); err != nil {
				return err
			}
			if _, isShared := v.(shared); isShared {
				s.mu.Lock()
				again := s.tables.shared(s.cfg.Zone, s.sealed)
				s.mu.Unlock()
				if data, err = s.pack(again); err != nil {
					return fmt.Errorf("secret %s: %w", name, err)
				}
				sum = sha256.Sum256(data)
			}
		default:
			return fmt.Errorf("secret %s: %w", name, err)
		}
		if !s.cfg.Leads() {
			return ErrFollower
		}
	}
	return fmt.Errorf("secret %s: %w", name, err)
}

// pack a shard, or what is shared.
func (s *Store) pack(v any) ([]byte, error) {
	sh, isShared := v.(shared)
	if !isShared {
		return pack(v)
	}
	data, all, err := packShared(sh)
	if lean := err == nil && !all; lean != s.lean {
		s.lean = lean
		if lean {
			s.cfg.Log.Error("the shared state is too large for its Secret: it is written without virtual addresses, which may move with the next restart", "secret", SecretName, "counters", len(sh.Counters))
		}
	}
	return data, err
}

// meet learns the version of a Secret that another instance wrote meanwhile, and
// keeps the authorities in it: a key that signed is never lost to a race.
func (s *Store) meet(ctx context.Context, name string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, isShared := v.(shared); !isShared {
		var there shard
		return s.get(ctx, name, &there)
	}
	var there shared
	if err := s.get(ctx, name, &there); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range there.Authorities {
		if key := [2]string{a.Mesh, a.TrustDomain}; s.tables.authorities[key] == nil {
			s.tables.authorities[key] = a.Slots
		}
	}
	return nil
}

// watch follows the Secret of what is shared until ctx ends.
func (s *Store) watch(ctx context.Context, adopt func(disk.Update)) {
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", SecretName).String()}
	pause := flushPause
	for ctx.Err() == nil {
		w, err := s.client().Watch(ctx, options) // without a version: the present state comes first
		if err == nil {
			s.follow(ctx, w, adopt)
			w.Stop()
			pause = flushPause
		} else if ctx.Err() == nil {
			s.cfg.Log.Warn("state of other instances not watched, trying on", "error", err)
			pause = min(2*pause, maxPause)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

func (s *Store) follow(ctx context.Context, w watch.Interface, adopt func(disk.Update)) {
	for {
		select {
		case <-ctx.Done():
			return
		case event, ok := <-w.ResultChan():
			if !ok {
				return
			}
			o, isObject := event.Object.(*unstructured.Unstructured)
			if !isObject || event.Type == watch.Deleted || event.Type == watch.Error || o.GetName() != SecretName {
				continue
			}
			data, err := content(o)
			var there shared
			if err == nil {
				err = unpack(data, &there)
			}
			if err != nil || there.Zone != s.cfg.Zone {
				s.cfg.Log.Warn("state of another instance cannot be read", "error", err, "zone", there.Zone)
				continue
			}
			if s.cfg.Leads() { // its own, or older than what it has
				continue
			}
			s.mu.Lock()
			news := s.tables.takeShared(&there)
			s.mu.Unlock()
			if !news.Empty() {
				adopt(news)
			}
		}
	}
}
