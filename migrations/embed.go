// Package migrations holds the schema of the PostgreSQL store, one numbered
// file a step. A file that was released is never changed; the next step is a
// new file.
package migrations

import "embed"

// Files are the steps, NNNN_name.sql.
//
//go:embed *.sql
var Files embed.FS
