package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/internal/spool"
	"github.com/tombolo-mesh/tombolo/mesh"
)

const (
	consistent      = "begin isolation level repeatable read read only"
	resourceColumns = "r.kind, r.mesh, r.name, r.zone, r.labels, r.spec, r.status, r.revision, r.created, r.modified"
	selectHead      = "select revision, digest, compacted_revision, compacted_digest from head"
	// A page of changes ends where it would be too large, but has at least one.
	selectChanges = `select revision, deleted, kind, mesh, name, zone, labels, spec, status, created, author, time
from (
    select c.*, row_number() over w as n,
           sum(coalesce(octet_length(spec), 0) + coalesce(octet_length(status), 0)) over w as size
    from (select * from changes where revision > $1 order by revision limit $2) c
    window w as (order by revision)
) p
where n = 1 or size <= $3
order by revision`
)

// bounds is the row of the table head.
type bounds struct{ first, last store.Position }

func scanBounds(row pgx.Row) (b bounds, err error) {
	err = row.Scan(&b.last.Revision, &b.last.Digest, &b.first.Revision, &b.first.Digest)
	return b, err
}

func scanResource(row pgx.Row) (r mesh.Resource, err error) {
	var labels []byte
	if err = row.Scan(&r.Kind, &r.Mesh, &r.Name, &r.Zone, &labels, (*[]byte)(&r.Spec), (*[]byte)(&r.Status), &r.Revision, &r.Created, &r.Modified); err != nil {
		return r, err
	}
	r.Created, r.Modified = r.Created.UTC(), r.Modified.UTC()
	r.Labels, err = decodeLabels(labels)
	return r, err
}

func decodeLabels(b []byte) (labels map[string]string, err error) {
	if string(b) == "{}" {
		return nil, nil
	}
	if err := json.Unmarshal(b, &labels); err != nil {
		return nil, fmt.Errorf("labels: %v: %w", err, store.ErrInvalid)
	}
	return labels, nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key mesh.Key) (r mesh.Resource, err error) {
	err = s.call(ctx, "get", func(ctx context.Context, conn *pgxpool.Conn) (err error) {
		r, err = scanResource(conn.QueryRow(ctx, "select "+resourceColumns+` from resources r
where kind = $1 and mesh = $2 and name = $3 and zone = $4`, key.Kind, key.Mesh, key.Name, key.Zone))
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("%s: %w", key, store.ErrNotFound)
		}
		return err
	})
	return r, err
}

// Head implements store.Store.
func (s *Store) Head(ctx context.Context) (store.Position, error) {
	var b bounds
	err := s.call(ctx, "head", func(ctx context.Context, conn *pgxpool.Conn) (err error) {
		b, err = scanBounds(conn.QueryRow(ctx, selectHead))
		return err
	})
	return b.last, err
}

// DigestAt implements store.Store.
func (s *Store) DigestAt(ctx context.Context, rev mesh.Revision) (d store.Digest, err error) {
	err = s.call(ctx, "digest", func(ctx context.Context, conn *pgxpool.Conn) error {
		// One statement sees one state, so that compaction cannot come in between.
		var b bounds
		var logged *string
		err := conn.QueryRow(ctx, `select h.revision, h.digest, h.compacted_revision, h.compacted_digest, c.digest
from head h left join changes c on c.revision = $1`, int64(rev)).
			Scan(&b.last.Revision, &b.last.Digest, &b.first.Revision, &b.first.Digest, &logged)
		if err != nil {
			return err
		}
		if err := store.CheckBounds(rev, b.first.Revision, b.last.Revision); err != nil {
			return err
		}
		switch {
		case rev == b.first.Revision:
			d = b.first.Digest
		case logged == nil:
			return fmt.Errorf("revision %d is missing from the change log: %w", rev, store.ErrNotFound)
		default:
			d = store.Digest(*logged)
		}
		return nil
	})
	return d, err
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, q store.Query) (page store.Page, err error) {
	if err := q.Check(); err != nil {
		return page, fmt.Errorf("list: %w", err)
	}
	where, args, err := conditions(q)
	if err != nil {
		return page, fmt.Errorf("list: %w", err)
	}
	limits := ""
	if q.Offset > 0 {
		limits += " offset " + strconv.Itoa(q.Offset)
	}
	if q.Size > 0 {
		limits += " limit " + strconv.Itoa(q.Size)
	}
	err = s.call(ctx, "list", func(ctx context.Context, conn *pgxpool.Conn) error {
		page = store.Page{}
		b := &pgx.Batch{}
		b.Queue(consistent)
		b.Queue(selectHead).QueryRow(func(row pgx.Row) error {
			h, err := scanBounds(row)
			page.At = h.last.Revision
			return err
		})
		b.Queue("select count(*) from resources r where "+where, args...).QueryRow(func(row pgx.Row) error { return row.Scan(&page.Total) })
		b.Queue("select "+resourceColumns+" from resources r where "+where+" order by mesh, name, zone"+limits, args...).
			Query(func(rows pgx.Rows) (err error) {
				page.Items, err = pgx.AppendRows(page.Items, rows, func(row pgx.CollectableRow) (mesh.Resource, error) { return scanResource(row) })
				return err
			})
		b.Queue("commit")
		return conn.SendBatch(ctx, b).Close()
	})
	return page, err
}

func conditions(q store.Query) (string, []any, error) {
	where, args := []string{"kind = $1"}, []any{string(q.Kind)}
	add := func(condition string, arg any) {
		args = append(args, arg)
		where = append(where, strings.ReplaceAll(condition, "?", "$"+strconv.Itoa(len(args))))
	}
	if q.Mesh != "" {
		add("mesh = ?", q.Mesh)
	}
	if q.Zone != nil {
		add("zone = ?", *q.Zone)
	}
	if q.NameContains != "" {
		add("strpos(name, ?) > 0", q.NameContains)
	}
	if len(q.Labels) > 0 {
		b, err := json.Marshal(q.Labels)
		if err != nil {
			return "", nil, err
		}
		add("labels @> ?::jsonb", b)
	}
	return strings.Join(where, " and "), args, nil
}

// Changes implements store.Store.
func (s *Store) Changes(ctx context.Context, after mesh.Revision, limit int) (changes []mesh.Change, err error) {
	limit = store.ChangesLimit(limit)
	err = s.call(ctx, "changes", func(ctx context.Context, conn *pgxpool.Conn) error {
		changes = nil
		b := &pgx.Batch{}
		b.Queue(consistent)
		b.Queue(selectHead).QueryRow(func(row pgx.Row) error {
			h, err := scanBounds(row)
			if err != nil {
				return err
			}
			return store.CheckBounds(after, h.first.Revision, h.last.Revision)
		})
		b.Queue(selectChanges, int64(after), limit, int64(store.MaxChangesBytes)).Query(func(rows pgx.Rows) (err error) {
			changes, err = pgx.AppendRows(changes, rows, scanChange)
			return err
		})
		b.Queue("commit")
		return conn.SendBatch(ctx, b).Close()
	})
	if err != nil {
		return nil, err
	}
	for i, c := range changes {
		if c.Revision != after+mesh.Revision(i)+1 {
			return nil, fmt.Errorf("changes: revision %d is missing from the change log", after+mesh.Revision(i)+1)
		}
	}
	return changes, nil
}

func scanChange(row pgx.CollectableRow) (c mesh.Change, err error) {
	r := &c.Resource
	var labels []byte
	var created *time.Time
	err = row.Scan(&c.Revision, &c.Deleted, &r.Kind, &r.Mesh, &r.Name, &r.Zone, &labels, (*[]byte)(&r.Spec), (*[]byte)(&r.Status), &created, &c.Author, &c.Time)
	if err != nil {
		return c, err
	}
	c.Time = c.Time.UTC()
	if c.Deleted {
		return c, nil
	}
	r.Revision, r.Modified = c.Revision, c.Time
	if created != nil {
		r.Created = created.UTC()
	}
	r.Labels, err = decodeLabels(labels)
	return c, err
}

// Snapshot implements store.Store. What it reads leaves the transaction at once
// (see package spool), so that a slow reader holds no connection.
func (s *Store) Snapshot(ctx context.Context) (at store.Position, all iter.Seq2[mesh.Resource, error], err error) {
	select {
	case s.reading <- struct{}{}:
		defer func() { <-s.reading }()
	case <-ctx.Done():
		return at, nil, fmt.Errorf("snapshot: %w", ctx.Err())
	}
	sp := &spool.Spool{}
	err = s.call(ctx, "snapshot", func(ctx context.Context, conn *pgxpool.Conn) (err error) {
		sp.Discard()
		sp = &spool.Spool{}
		return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			b, err := scanBounds(tx.QueryRow(ctx, selectHead))
			if err != nil {
				return err
			}
			at = b.last
			rows, err := tx.Query(ctx, "select "+resourceColumns+" from resources r order by kind, mesh, name, zone")
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				r, err := scanResource(rows)
				if err != nil {
					return err
				}
				if err := sp.Add(r); err != nil {
					return err
				}
			}
			return rows.Err()
		})
	})
	if err == nil {
		all, err = sp.All()
	}
	if err != nil {
		sp.Discard()
		return store.Position{}, nil, err
	}
	return at, all, nil
}
