// Package store is where global keeps what was authored: resources and the log
// of their changes, in one transaction.
//
// In flow batches of writes with preconditions, out flow revisions, reads and a
// feed of changes. Implementations are store/postgres and store/embedded; both
// pass store/storetest.
package store
