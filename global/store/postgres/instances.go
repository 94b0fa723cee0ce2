package postgres

import (
	"context"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tombolo-mesh/tombolo/global/store"
)

// Raise implements store.Store. It takes its turn among the writers: what they
// wrote before is committed, and who comes after sees the new number.
func (s *Store) Raise(ctx context.Context, name string) (store.Fence, error) {
	f := store.Fence{Name: name}
	err := s.call(ctx, "raise fence", func(ctx context.Context, conn *pgxpool.Conn) error {
		b := &pgx.Batch{}
		b.Queue("begin")
		b.Queue("select from head for update")
		b.Queue("insert into fences values ($1, 1) on conflict (name) do update set number = fences.number + 1 returning number", name).
			QueryRow(func(row pgx.Row) error { return row.Scan(&f.Number) })
		b.Queue("commit")
		return conn.SendBatch(ctx, b).Close()
	})
	return f, err
}

func scanFences(rows pgx.Rows, into map[string]int64) error {
	for rows.Next() {
		var name string
		var number int64
		if err := rows.Scan(&name, &number); err != nil {
			return err
		}
		into[name] = number
	}
	return rows.Err()
}

// maxInstances bounds what is read of who lives.
const maxInstances = 64

// Register notes that an instance lives, forgets those that did not say so for
// as long as life, and returns the records of all, itself included. The clock is
// the database's.
func (s *Store) Register(ctx context.Context, id string, record []byte, life time.Duration) (map[string][]byte, error) {
	var all map[string][]byte
	err := s.call(ctx, "register instance", func(ctx context.Context, conn *pgxpool.Conn) error {
		all = map[string][]byte{}
		b := &pgx.Batch{}
		b.Queue("insert into instances values ($1, $2, clock_timestamp()) on conflict (id) do update set record = excluded.record, seen = excluded.seen", id, record)
		b.Queue("delete from instances where seen < clock_timestamp() - make_interval(secs => $1)", life.Seconds())
		b.Queue("select id, record from instances order by seen desc limit $1", maxInstances).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var id string
				var record []byte
				if err := rows.Scan(&id, &record); err != nil {
					return err
				}
				all[id] = record
			}
			return rows.Err()
		})
		return conn.SendBatch(ctx, b).Close()
	})
	return all, err
}

// Leave takes an instance that ends off the list.
func (s *Store) Leave(ctx context.Context, id string) error {
	return s.call(ctx, "leave", func(ctx context.Context, conn *pgxpool.Conn) error {
		_, err := conn.Exec(ctx, "delete from instances where id = $1", id)
		return err
	})
}

// LocalIP is the address from which this process reaches the database; nil when
// it is not over the network.
func (s *Store) LocalIP(ctx context.Context) (ip net.IP, err error) {
	err = s.call(ctx, "local address", func(_ context.Context, conn *pgxpool.Conn) error {
		if a, ok := conn.Conn().PgConn().Conn().LocalAddr().(*net.TCPAddr); ok {
			ip = a.IP
		}
		return nil
	})
	return ip, err
}
