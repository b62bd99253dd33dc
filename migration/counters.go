package migration

import "sync/atomic"

// Counters are the counts of a migration under way. They may be read at any time.
type Counters struct {
	Bytes  atomic.Uint64 // of all channels
	Normal atomic.Uint64 // pages with data
	Zero   atomic.Uint64 // pages that are zero
	// SyncPoints are those passed.
	SyncPoints atomic.Uint64
}
