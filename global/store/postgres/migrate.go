package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/tern/v2/migrate"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/migrations"
)

const (
	versionTable = "tombolo_schema_version"
	// migrateLock keeps instances that start at the same time from migrating together.
	migrateLock = int64(0x746f6d626f6c6f)
)

// Migrate brings the schema of the database up to this program's version, under
// a lock, and returns the versions before and after. A schema newer than this
// program is an error.
func Migrate(ctx context.Context, dsn string) (from, to int, err error) {
	cfg, err := parse(dsn)
	if err != nil {
		return 0, 0, err
	}
	conn, err := connect(ctx, cfg.ConnConfig)
	if err != nil {
		return 0, 0, fmt.Errorf("migrate: %w", classifyStart(err))
	}
	defer conn.Close(context.WithoutCancel(ctx))
	from, to, err = migrateConn(ctx, conn)
	if err != nil {
		return from, to, fmt.Errorf("migrate: %w", classify(err))
	}
	return from, to, nil
}

func migrateConn(ctx context.Context, conn *pgx.Conn) (from, to int, err error) {
	// A step may take longer than a statement of the store, and so may waiting for
	// another instance that runs one.
	if _, err := conn.Exec(ctx, "select set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false)"); err != nil {
		return 0, 0, err
	}
	// The lock goes with the connection.
	if _, err := conn.Exec(ctx, "select pg_advisory_lock($1)", migrateLock); err != nil {
		return 0, 0, err
	}
	m, err := migrate.NewMigrator(ctx, conn, versionTable)
	if err != nil {
		return 0, 0, err
	}
	if err := m.LoadMigrations(migrations.Files); err != nil {
		return 0, 0, err
	}
	version, err := m.GetCurrentVersion(ctx)
	if err != nil {
		return 0, 0, err
	}
	want := int32(len(m.Migrations))
	if version > want {
		return int(version), int(want), fmt.Errorf("the schema has version %d, this program knows %d; run the newer program: %w",
			version, want, errTooNew)
	}
	if version == want {
		return int(version), int(want), nil
	}
	return int(version), int(want), m.Migrate(ctx)
}

var errTooNew = errors.New("schema is newer than the program")

// checkEncoding refuses a database that cannot hold every name.
func checkEncoding(conn *pgx.Conn) error {
	if enc := conn.PgConn().ParameterStatus("server_encoding"); enc != "UTF8" {
		return fmt.Errorf("the database has encoding %q, it must be UTF8: %w", enc, store.ErrInvalid)
	}
	return nil
}
