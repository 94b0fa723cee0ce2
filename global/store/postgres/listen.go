package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/internal/bell"
	"github.com/tombolo-mesh/tombolo/mesh"
)

func revision(n int64) mesh.Revision { return mesh.Revision(n) }

// Wait implements store.Store. It needs no connection of its own, so any number
// of callers may wait. While the database is away it just waits on.
func (s *Store) Wait(ctx context.Context, rev mesh.Revision) error {
	err := s.bell.Wait(ctx, rev)
	if errors.Is(err, bell.ErrClosed) {
		return fmt.Errorf("wait: the store is closed: %w", store.ErrUnavailable)
	}
	return err
}

// listen keeps a connection that hears notifications, until ctx ends.
func (s *Store) listen(ctx context.Context, cfg *pgx.ConnConfig) {
	wait := 50 * time.Millisecond
	down := false
	for {
		err := s.listenOnce(ctx, cfg, func() {
			wait = 50 * time.Millisecond
			if down {
				s.log.Info("store connected again")
			}
			down = false
		})
		if ctx.Err() != nil {
			return
		}
		if !down {
			s.log.Warn("store connection lost, retrying", "error", err.Error())
			down = true
		}
		// Perhaps only this connection fails: then look, in place of hearing.
		s.look(ctx)
		timer := time.NewTimer(wait/2 + rand.N(wait/2+1))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		wait = min(2*wait, poll)
	}
}

func (s *Store) look(ctx context.Context) {
	known := s.bell.Known()
	var rev int64
	err := s.call(ctx, "poll", func(ctx context.Context, conn *pgxpool.Conn) error {
		return conn.QueryRow(ctx, "select revision from head").Scan(&rev)
	})
	if err == nil {
		s.bell.Correct(known, revision(rev))
	}
}

// listenOnce listens until the connection fails. Whatever was committed before
// it heard anything is found by reading the head after LISTEN.
func (s *Store) listenOnce(ctx context.Context, cfg *pgx.ConnConfig, up func()) error {
	conn, err := connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(bounded)
	}()
	if _, err := conn.Exec(ctx, "listen "+pgx.Identifier{s.channel}.Sanitize()); err != nil {
		return err
	}
	for first := true; ; first = false {
		known := s.bell.Known()
		rev, err := s.check(ctx, conn)
		if err != nil {
			return err
		}
		s.bell.Correct(known, rev)
		if first {
			up()
		}
		if err := s.hear(ctx, conn); err != nil {
			return err
		}
	}
}

// check reads the head, which also shows that the connection lives.
func (s *Store) check(ctx context.Context, conn *pgx.Conn) (mesh.Revision, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var rev int64
	err := conn.QueryRow(ctx, "select revision from head").Scan(&rev)
	return revision(rev), err
}

// hear passes notifications on until none came for a while.
func (s *Store) hear(ctx context.Context, conn *pgx.Conn) error {
	for {
		bounded, cancel := context.WithTimeout(ctx, poll)
		n, err := conn.WaitForNotification(bounded)
		cancel()
		switch {
		case err == nil:
			if rev, err := strconv.ParseInt(n.Payload, 10, 64); err == nil {
				s.bell.Ring(revision(rev))
			}
		case ctx.Err() == nil && pgconn.Timeout(err) && !conn.IsClosed():
			return nil
		default:
			return err
		}
	}
}
