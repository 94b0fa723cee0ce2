package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// selectHistory reads newest first, by the index of keys, and ends where a page
// would be too large.
const selectHistory = `select revision, deleted, kind, mesh, name, zone, labels, spec, status, created, author, time
from (
    select c.*, row_number() over w as n,
           sum(coalesce(octet_length(spec), 0) + coalesce(octet_length(status), 0)) over w as size
    from (select * from changes where kind = $1 and mesh = $2 and name = $3 and zone = $4 and revision < $5
          order by revision desc limit $6) c
    window w as (order by revision desc)
) p
where n = 1 or size <= $7
order by revision desc`

// Begin implements store.Store.
func (s *Store) Begin(ctx context.Context) (mesh.Revision, error) {
	var b bounds
	err := s.call(ctx, "begin", func(ctx context.Context, conn *pgxpool.Conn) (err error) {
		b, err = scanBounds(conn.QueryRow(ctx, selectHead))
		return err
	})
	return b.first.Revision, err
}

// History implements store.Store.
func (s *Store) History(ctx context.Context, key mesh.Key, before mesh.Revision, limit int) (changes []mesh.Change, err error) {
	err = s.call(ctx, "history", func(ctx context.Context, conn *pgxpool.Conn) error {
		rows, err := conn.Query(ctx, selectHistory, key.Kind, key.Mesh, key.Name, key.Zone, int64(before), store.ChangesLimit(limit), int64(store.MaxChangesBytes))
		if err != nil {
			return err
		}
		changes, err = pgx.CollectRows(rows, scanChange)
		return err
	})
	return changes, err
}
