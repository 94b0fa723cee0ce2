// Package postgres keeps resources and the log of their changes in PostgreSQL
// 15 or later. In flow batches of writes, out flow revisions, reads and changes.
//
// Any number of instances share a database. A writer locks one row, so that
// revisions are gapless and in commit order; NOTIFY tells every instance that
// there is something to read and is never the data. While the database is away
// every call fails with store.ErrUnavailable within a bounded time, and works
// again by itself when it is back.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/internal/bell"
	"github.com/tombolo-mesh/tombolo/global/store/internal/group"
)

const (
	connectTimeout = 3 * time.Second
	// groupSize is how many waiting writers share a transaction.
	groupSize = 64
	maxConns  = 16
	// snapshots that are read at once; each holds a connection while it is read.
	snapshots = 4
	// poll is how often the listening connection is checked while nothing rings,
	// and the most that a lost notification costs.
	poll = time.Second
)

// Config of a PostgreSQL store.
type Config struct {
	// DSN as URL or key=value pairs. The user must be allowed to create tables.
	DSN string
	// Timeout of one call; default 10s.
	Timeout time.Duration
	// Logger for connections lost and found; default none.
	Logger *slog.Logger
}

// Store implements store.Store.
type Store struct {
	pool    *pgxpool.Pool
	timeout time.Duration
	log     *slog.Logger
	channel string
	writes  *group.Committer[*write]
	bell    *bell.Bell
	reading chan struct{} // a slot for each snapshot that is read

	ctx    context.Context
	cancel context.CancelFunc
	owned  sync.WaitGroup
}

var _ store.Store = (*Store)(nil)

// Open connects, brings the schema up to date and starts to listen. ctx bounds
// the opening alone.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	pc, err := parse(cfg.DSN)
	if err != nil {
		return nil, err
	}
	limit(pc, cfg.Timeout)
	if err := prepare(ctx, pc, cfg.Logger); err != nil {
		return nil, fmt.Errorf("open store: %w", classifyStart(err))
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", classify(err))
	}
	s := &Store{pool: pool, timeout: cfg.Timeout, log: cfg.Logger, reading: make(chan struct{}, snapshots)}
	s.writes = group.New(groupSize, s.commit)
	var rev int64
	var table uint32
	err = s.call(ctx, "open store", func(ctx context.Context, conn *pgxpool.Conn) error {
		return conn.QueryRow(ctx, "select revision, 'head'::regclass::oid from head").Scan(&rev, &table)
	})
	if err != nil {
		pool.Close()
		return nil, err
	}
	// Schemas of one database, each with a store of its own, do not wake each other.
	s.channel = "tombolo_" + strconv.FormatUint(uint64(table), 10)
	s.bell = bell.New(revision(rev))
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.owned.Go(func() { s.listen(s.ctx, pc.ConnConfig) })
	return s, nil
}

func prepare(ctx context.Context, pc *pgxpool.Config, log *slog.Logger) error {
	conn, err := connect(ctx, pc.ConnConfig)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := checkEncoding(conn); err != nil {
		return err
	}
	from, to, err := migrateConn(ctx, conn)
	if err != nil {
		return err
	}
	if from != to {
		log.Info("store schema migrated", "from", from, "to", to)
	}
	return nil
}

// Close ends waits and closes the connections.
func (s *Store) Close() error {
	s.bell.Close()
	s.cancel()
	s.owned.Wait()
	s.pool.Close()
	return nil
}

// parse reads a DSN. Its errors never contain the DSN, which has a password.
func parse(dsn string) (*pgxpool.Config, error) {
	if dsn == "" {
		return nil, errors.New("postgres DSN is empty; it is written postgres://user:password@host:5432/database")
	}
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("postgres DSN does not parse%s; it is written postgres://user:password@host:5432/database", reason(err))
	}
	return cfg, nil
}

// reason of a parse error, if it is one that cannot quote the DSN.
func reason(err error) string {
	var number *strconv.NumError
	var network *net.AddrError
	switch {
	case errors.As(err, &number):
		return " (a number is wrong)"
	case errors.As(err, &network):
		return " (the address is wrong)"
	}
	return ""
}

// limit sets what bounds every connection, where the DSN does not.
func limit(pc *pgxpool.Config, timeout time.Duration) {
	if pc.MaxConns < maxConns {
		pc.MaxConns = maxConns
	}
	if pc.ConnConfig.ConnectTimeout == 0 {
		pc.ConnConfig.ConnectTimeout = connectTimeout
	}
	pc.PingTimeout = connectTimeout
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}}
	pc.ConnConfig.DialFunc = dialer.DialContext
	ms := strconv.FormatInt(timeout.Milliseconds(), 10)
	for name, value := range map[string]string{
		"application_name":                    "tombolo-global",
		"statement_timeout":                   ms,
		"idle_in_transaction_session_timeout": ms, // an instance that hangs must not hold the others up
		"tcp_user_timeout":                    ms,
	} {
		if _, set := pc.ConnConfig.RuntimeParams[name]; !set {
			pc.ConnConfig.RuntimeParams[name] = value
		}
	}
	pc.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		// Acknowledged is durable, whatever the database's default is.
		_, err := conn.Exec(ctx, "select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'")
		return err
	}
}

func connect(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	cfg = cfg.Copy()
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	return pgx.ConnectConfig(ctx, cfg)
}

// call runs fn with a connection, within the time that a call has. fn must be
// safe to run again: a connection that was broken while it lay in the pool is
// replaced, once.
func (s *Store) call(ctx context.Context, what string, fn func(context.Context, *pgxpool.Conn) error) error {
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err := s.pool.AcquireFunc(limited, func(conn *pgxpool.Conn) error { return fn(limited, conn) })
	if broken(err) && limited.Err() == nil {
		s.pool.Reset()
		err = s.pool.AcquireFunc(limited, func(conn *pgxpool.Conn) error { return fn(limited, conn) })
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, errors.Join(ctx.Err(), classify(err)))
	}
	return fmt.Errorf("%s: %w", what, classify(err))
}

// broken reports whether the connection failed rather than the statement.
func broken(err error) bool {
	if err == nil || isOurs(err) {
		return false
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return strings.HasPrefix(pg.Code, "57") && pg.Code != "57014" // the server goes down; not a cancelled statement
	}
	return !errors.Is(err, pgx.ErrNoRows)
}

func isOurs(err error) bool {
	for _, e := range []error{store.ErrNotFound, store.ErrConflict, store.ErrCompacted, store.ErrUnavailable, store.ErrInvalid, store.ErrFenced, errTooNew} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// classifyStart is classify for a first connection: there, not to be let in is
// a mistake to report and nothing to wait for.
func classifyStart(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && notLetIn(pg) {
		return err
	}
	return classify(err)
}

// notLetIn: wrong user or password, or no such database.
func notLetIn(pg *pgconn.PgError) bool { return strings.HasPrefix(pg.Code, "28") || pg.Code == "3D000" }

// classify turns the errors of a database that does not answer into
// ErrUnavailable. What the database says itself about a statement stays.
func classify(err error) error {
	if err == nil || isOurs(err) {
		return err
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch {
		case len(pg.Code) != 5:
		case pg.Code[:2] == "08", pg.Code[:2] == "53", pg.Code[:2] == "57", pg.Code[:2] == "58", // connection, resources, operator, system
			notLetIn(pg),
			pg.Code == "25006", pg.Code == "25P03", // read-only, idle too long
			pg.Code[:2] == "40": // rolled back
		default:
			return err
		}
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}
