package sync_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	globalsync "github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// TestFollower: an instance that does not lead is pushed to like the leader, and a
// change is done when the proxies of both have it. Its facts are not taken.
func TestFollower(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("east", "west")
		second := f.follow("east", "east-2")
		second.facts.put(aService("east", "stray", 1))
		f.eventually("the follower's copy", func() error {
			if diff := cmp.Diff(f.wanted("east"), second.replica.texts()); diff != "" {
				return errors.New(diff)
			}
			return nil
		})
		f.settled() // the leader still leads, and the stray service is nowhere
		if z := f.server.Zones()[0]; z.Instances != 2 || !z.Online {
			t.Errorf("%+v", z)
		}

		second.reports.mu.Lock()
		second.reports.behind = true
		second.reports.mu.Unlock()
		rev := f.write(put(aTimeout("t", 9)))
		state := func(want string) {
			t.Helper()
			f.eventually(want, func() error {
				s := f.server.Change(rev)
				z := s.Zones[0]
				if got := fmt.Sprintf("complete=%v %s(%d,%d,%d) %d", s.Complete, z.State, z.Affected, z.Done, z.Behind, len(z.BehindNames)); got != want {
					return errors.New(got)
				}
				return nil
			})
		}
		state("complete=false behind(2,1,1) 1")
		second.reports.set(func(r *zonesyncv1.Report) {
			c := r.Changes[len(r.Changes)-1]
			c.Behind, c.Done, c.BehindNames, c.SettleMicros, r.Settled = 0, 1, nil, 1, r.Applied
		})
		state("complete=true done(2,2,0) 0")
		// Gone with its stream: its proxies are counted where they go.
		second.stop()
		state("complete=true done(1,1,0) 0")
	})
}

// TestFollowerLeads: the roles change hands without a fact lost or doubled.
func TestFollowerLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, true, globalsync.NewMemStore())
		f.seeded("east")
		first, second := f.zones["east"], f.follow("east", "east-2")
		f.eventually("both are there", func() error {
			if n := f.server.Zones()[0].Instances; n != 2 {
				return fmt.Errorf("%d instances", n)
			}
			return nil
		})
		for _, r := range first.facts.whole() {
			second.facts.put(r)
		}
		second.facts.put(aService("east", "later", 1))
		first.follows.Store(true)
		second.follows.Store(false)
		first.client.Rejoin()
		second.client.Rejoin()
		f.zones["east"] = second
		f.settled()
		if diff := cmp.Diff(f.wanted("east"), first.replica.texts()); diff != "" {
			t.Errorf("the former leader: %s", diff)
		}
		if n := f.server.Zones()[0].Instances; n != 2 {
			t.Errorf("%d instances", n)
		}
		// What each knows of its own proxies all are asked, and none may be missing.
		all := func() (string, error) {
			var out bytes.Buffer
			err := f.server.Inspect(context.Background(), "east", globalsync.Question{What: zonesync.WhatSuccess}, &out)
			return out.String(), err
		}
		if got, err := all(); err != nil || got != "answer to successanswer to success" {
			t.Errorf("%q, %v", got, err)
		}
		first.reports.answer = func(context.Context, globalsync.Question, io.Writer) error { return errors.New("cannot tell") }
		if got, err := all(); !errors.Is(err, globalsync.ErrInspect) {
			t.Errorf("one of two answers, and that is all: %q, %v", got, err)
		}
		first.reports.answer = nil
		// A proxy is asked where it is.
		second.reports.answer = func(context.Context, globalsync.Question, io.Writer) error { return errors.New("no such proxy here") }
		var out bytes.Buffer
		if err := f.server.Inspect(context.Background(), "east", globalsync.Question{What: "stats", Mesh: "default", Proxy: "web-1"}, &out); err != nil || out.String() != "answer to stats" {
			t.Errorf("%q, %v", out.String(), err)
		}
	})
}
