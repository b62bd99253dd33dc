package relay

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmferry/vmferry/relay/linkwire"
)

// Counters count what the connections of a migration, or of all, carried.
type Counters struct {
	// Connections are those that began, Open those of them that have not ended, Broken
	// those that ended with an error.
	Connections, Open, Broken uint64
	// FromQEMU and ToQEMU are bytes between this relay and its QEMUs.
	FromQEMU, ToQEMU uint64
	// ToLink and FromLink are bytes of frames between the relays, without TLS.
	ToLink, FromLink uint64
	// Sent counts the pages of multifd channels that went over the link by their form,
	// Received those that came.
	Sent, Received linkwire.Forms
	// LinkWait is the time that connections waited for the link to take frames.
	LinkWait time.Duration
}

// counters are Counters in the making.
type counters struct {
	mu sync.Mutex
	c  Counters
}

func (c *counters) add(f func(*Counters)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.c)
}

func (c *counters) get() Counters {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.c
}

// MigrationStats are the counters of one migration under way.
type MigrationStats struct {
	// UUID is the machine's in hexadecimal; "" while no multifd channel has named it.
	UUID string
	Counters
}

// Stats describe a Relay.
type Stats struct {
	// Total counts all connections since New.
	Total Counters
	// Migrations are those under way, in the order of their UUIDs. At the destination and
	// over TCP the process of a QEMU is not known, and only the multifd channels of a
	// migration count in it.
	Migrations []MigrationStats
	// ProcessorTime is what the process has used.
	ProcessorTime time.Duration
}

// Stats returns the counts so far.
func (r *Relay) Stats() Stats {
	s := Stats{Total: r.total.get(), ProcessorTime: processorTime()}
	for _, m := range r.migrations.list() {
		m.mu.Lock()
		uuid := m.uuid
		m.mu.Unlock()
		s.Migrations = append(s.Migrations, MigrationStats{uuid, m.get()})
	}
	slices.SortFunc(s.Migrations, func(a, b MigrationStats) int { return strings.Compare(a.UUID, b.UUID) })
	return s
}

func (m *migrations) list() (all []*migration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.peers {
		if p.migration != nil {
			all = append(all, p.migration)
		}
	}
	for _, of := range m.byUUID {
		all = append(all, of)
	}
	return all
}
