package migration

import "sync/atomic"

// Counters count the progress of a migration. They may be read concurrently.
type Counters struct {
	Bytes      atomic.Uint64 // of all multifd channels
	Normal     atomic.Uint64 // pages with data
	Zero       atomic.Uint64 // zero pages
	SyncPoints atomic.Uint64 // that the migration has passed
}
