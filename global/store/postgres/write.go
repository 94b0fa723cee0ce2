package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

const (
	// One statement of a transaction carries at most these.
	chunkRows  = 2000
	chunkBytes = 8 << 20
	// compactStep is how many changes one transaction drops.
	compactStep = 5000

	lockHead   = "select revision, digest, clock_timestamp() from head for update"
	lastTime   = "select time from changes order by revision desc limit 1"
	selectKeys = "select " + resourceColumns + ` from
unnest($1::text[], $2::text[], $3::text[], $4::text[]) as k (kind, mesh, name, zone) join resources r using (kind, mesh, name, zone)`
	insertChanges = `insert into changes (revision, digest, deleted, kind, mesh, name, zone, labels, spec, status, created, author, time)
select * from unnest($1::bigint[], $2::text[], $3::boolean[], $4::text[], $5::text[], $6::text[], $7::text[], $8::jsonb[],
    $9::bytea[], $10::bytea[], $11::timestamptz[], $12::text[], $13::timestamptz[])`
	upsertResources = `insert into resources (kind, mesh, name, zone, labels, spec, status, revision, created, modified)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::bytea[], $7::bytea[], $8::bigint[],
    $9::timestamptz[], $10::timestamptz[])
on conflict (kind, mesh, name, zone) do update set labels = excluded.labels, spec = excluded.spec, status = excluded.status,
    revision = excluded.revision, created = excluded.created, modified = excluded.modified`
	deleteResources = `delete from resources r using unnest($1::text[], $2::text[], $3::text[], $4::text[]) as k (kind, mesh, name, zone)
where r.kind = k.kind and r.mesh = k.mesh and r.name = k.name and r.zone = k.zone`
)

type write struct {
	author   string
	ops      []store.Op
	position store.Position
	err      error
}

// Write implements store.Store. Writers of this instance that wait at the same
// time share a transaction; each succeeds or fails by itself.
func (s *Store) Write(ctx context.Context, author string, ops []store.Op) (store.Position, error) {
	if err := store.CheckWrite(author, ops); err != nil {
		return store.Position{}, fmt.Errorf("write: %w", err)
	}
	if s.ctx.Err() != nil {
		return store.Position{}, fmt.Errorf("write: the store is closed: %w", store.ErrUnavailable)
	}
	w := &write{author: author, ops: ops}
	if err := s.writes.Do(ctx, w); err != nil {
		return store.Position{}, fmt.Errorf("write: %w", err)
	}
	if w.err != nil {
		return store.Position{}, fmt.Errorf("write: %w", w.err)
	}
	return w.position, nil
}

func (s *Store) commit(group []*write) {
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	at, err := s.commitGroup(ctx, group)
	if err != nil {
		err = classify(err)
		for _, w := range group {
			if w.err == nil {
				w.err = err
			}
		}
		return
	}
	s.bell.Ring(at)
}

// commitGroup plans and writes on one connection. Until the second trip nothing
// is written, so that it may start again on a new connection when the old one
// turns out to have broken in the pool; after it, a failure is final, and if the
// commit was on its way the outcome is unknown.
func (s *Store) commitGroup(ctx context.Context, group []*write) (at mesh.Revision, err error) {
	for attempt := 0; ; attempt++ {
		var sent bool
		err = s.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) (err error) {
			at, sent, err = s.transact(ctx, conn, group)
			return err
		})
		if attempt > 0 || sent || !broken(err) || ctx.Err() != nil {
			return at, err
		}
		s.pool.Reset()
	}
}

func (s *Store) transact(ctx context.Context, conn *pgxpool.Conn, group []*write) (at mesh.Revision, sent bool, err error) {
	plan, err := begin(ctx, conn, group)
	if err != nil {
		return 0, false, err // the pool drops a connection that is inside a transaction
	}
	for _, w := range group {
		w.position, w.err = plan.Add(w.author, w.ops)
	}
	if len(plan.Entries()) == 0 {
		_, err := conn.Exec(ctx, "rollback")
		return plan.Position().Revision, false, err
	}
	b := &pgx.Batch{}
	if err := queueEntries(b, plan.Entries()); err != nil {
		return 0, false, err
	}
	put, gone := plan.Final()
	if err := queueResources(b, put); err != nil {
		return 0, false, err
	}
	if len(gone) > 0 {
		b.Queue(deleteResources, keyColumns(gone)...)
	}
	end := plan.Position()
	b.Queue("update head set revision = $1, digest = $2", int64(end.Revision), string(end.Digest))
	b.Queue("select pg_notify($1, $2)", s.channel, strconv.FormatInt(int64(end.Revision), 10))
	b.Queue("commit")
	results := conn.SendBatch(ctx, b)
	for range b.Len() - 1 {
		if _, err := results.Exec(); err != nil {
			_ = results.Close() // it repeats the error
			return 0, true, err
		}
	}
	tag, err := results.Exec()
	if err == nil {
		err = results.Close()
	}
	if err == nil && tag.String() != "COMMIT" {
		err = fmt.Errorf("commit was answered with %s", tag)
	}
	return end.Revision, true, err
}

// begin starts a transaction, takes the lock of writers and reads what the
// writes are about, in one trip.
func begin(ctx context.Context, conn *pgxpool.Conn, group []*write) (*store.Planner, error) {
	keys := map[mesh.Key]bool{}
	var list []mesh.Key
	var names []string
	for _, w := range group {
		for i := range w.ops {
			if f := w.ops[i].Fence; f != nil {
				names = append(names, f.Name)
			}
			if k := w.ops[i].Resource.Key; !keys[k] {
				keys[k] = true
				list = append(list, k)
			}
		}
	}
	var at store.Position
	var now, last time.Time
	have := make(map[mesh.Key]mesh.Resource, len(list))
	b := &pgx.Batch{}
	b.Queue("begin")
	b.Queue(lockHead).QueryRow(func(row pgx.Row) error { return row.Scan(&at.Revision, &at.Digest, &now) })
	b.Queue(lastTime).QueryRow(func(row pgx.Row) error { // seen under the lock
		if err := row.Scan(&last); !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		return nil
	})
	b.Queue(selectKeys, keyColumns(list)...).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			r, err := scanResource(rows)
			if err != nil {
				return err
			}
			have[r.Key] = r
		}
		return rows.Err()
	})
	fences := map[string]int64{}
	if len(names) > 0 {
		b.Queue("select name, number from fences where name = any($1)", names).Query(func(rows pgx.Rows) error {
			return scanFences(rows, fences)
		})
	}
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		return nil, err
	}
	plan := store.NewPlanner(at, now, func(k mesh.Key) (mesh.Resource, bool, error) {
		r, ok := have[k]
		return r, ok, nil
	})
	plan.Fences(fences)
	plan.After(last)
	return plan, nil
}

func keyColumns(keys []mesh.Key) []any {
	var kinds, meshes, names, zones []string
	for _, k := range keys {
		kinds, meshes, names, zones = append(kinds, string(k.Kind)), append(meshes, k.Mesh), append(names, k.Name), append(zones, k.Zone)
	}
	return []any{kinds, meshes, names, zones}
}

// chunks cuts n items into runs that one statement carries.
func chunks(n int, size func(int) int, each func(from, to int) error) error {
	for from := 0; from < n; {
		to, bytes := from, 0
		for to < n && to-from < chunkRows && (to == from || bytes+size(to) <= chunkBytes) {
			bytes += size(to)
			to++
		}
		if err := each(from, to); err != nil {
			return err
		}
		from = to
	}
	return nil
}

func queueEntries(b *pgx.Batch, entries []store.Entry) error {
	size := func(i int) int { return len(entries[i].Change.Resource.Spec) + len(entries[i].Change.Resource.Status) }
	return chunks(len(entries), size, func(from, to int) error {
		var revisions []int64
		var digests, authors []string
		var deleted []bool
		var created []*time.Time
		var times []time.Time
		var resources []mesh.Resource
		for i := from; i < to; i++ {
			c := &entries[i].Change
			revisions, digests, authors = append(revisions, int64(c.Revision)), append(digests, string(entries[i].Digest)), append(authors, c.Author)
			deleted, times, resources = append(deleted, c.Deleted), append(times, c.Time), append(resources, c.Resource)
			if c.Deleted {
				created = append(created, nil)
			} else {
				created = append(created, &c.Resource.Created)
			}
		}
		columns, err := resourceArrays(resources)
		if err != nil {
			return err
		}
		args := append([]any{revisions, digests, deleted}, columns...)
		b.Queue(insertChanges, append(args, created, authors, times)...)
		return nil
	})
}

func queueResources(b *pgx.Batch, put []mesh.Resource) error {
	size := func(i int) int { return len(put[i].Spec) + len(put[i].Status) }
	return chunks(len(put), size, func(from, to int) error {
		var revisions []int64
		var created, modified []time.Time
		for _, r := range put[from:to] {
			revisions, created, modified = append(revisions, int64(r.Revision)), append(created, r.Created), append(modified, r.Modified)
		}
		columns, err := resourceArrays(put[from:to])
		if err != nil {
			return err
		}
		b.Queue(upsertResources, append(columns, revisions, created, modified)...)
		return nil
	})
}

// resourceArrays are the columns kind, mesh, name, zone, labels, spec, status.
func resourceArrays(resources []mesh.Resource) ([]any, error) {
	keys := make([]mesh.Key, len(resources))
	labels := make([]string, len(resources))
	specs, statuses := make([][]byte, len(resources)), make([][]byte, len(resources))
	for i, r := range resources {
		keys[i], labels[i] = r.Key, "{}"
		if len(r.Labels) > 0 {
			b, err := json.Marshal(r.Labels)
			if err != nil {
				return nil, fmt.Errorf("labels of %s: %w", r.Key, err)
			}
			labels[i] = string(b)
		}
		specs[i] = r.Spec
		if len(r.Status) > 0 {
			statuses[i] = r.Status
		}
	}
	return append(keyColumns(keys), labels, specs, statuses), nil
}

// Compact implements store.Store. It works in steps, so that writers get their turn.
func (s *Store) Compact(ctx context.Context, rev mesh.Revision) error {
	for {
		more := false
		err := s.call(ctx, "compact", func(ctx context.Context, conn *pgxpool.Conn) error {
			return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
				more, err = compactStepTo(ctx, tx, rev)
				return err
			})
		})
		if err != nil || !more {
			return err
		}
	}
}

func compactStepTo(ctx context.Context, tx pgx.Tx, rev mesh.Revision) (more bool, err error) {
	b, err := scanBounds(tx.QueryRow(ctx, selectHead+" for update"))
	if err != nil {
		return false, err
	}
	if rev > b.last.Revision {
		return false, fmt.Errorf("revision %d, the last is %d: %w", rev, b.last.Revision, store.ErrNotFound)
	}
	if rev <= b.first.Revision {
		return false, nil
	}
	to := min(rev, b.first.Revision+compactStep)
	var digest string
	if err := tx.QueryRow(ctx, "select digest from changes where revision = $1", int64(to)).Scan(&digest); err != nil {
		return false, err
	}
	if _, err := tx.Exec(ctx, "update head set compacted_revision = $1, compacted_digest = $2", int64(to), digest); err != nil {
		return false, err
	}
	_, err = tx.Exec(ctx, "delete from changes where revision <= $1", int64(to))
	return to < rev, err
}
