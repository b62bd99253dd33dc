package qmp

import (
	"context"
	"maps"
	"slices"
	"time"
)

// Milliseconds is a length of time as QMP writes it.
type Milliseconds int64

// Duration converts to Go's type.
func (m Milliseconds) Duration() time.Duration { return time.Duration(m) * time.Millisecond }

// Phases of a migration, as query-migrate names them; see [Migration].
const (
	MigrationNone           = "none"
	MigrationSetup          = "setup"
	MigrationActive         = "active"
	MigrationPreSwitchover  = "pre-switchover"
	MigrationDevice         = "device"
	MigrationPostcopyActive = "postcopy-active"
	MigrationCancelling     = "cancelling"
	MigrationCancelled      = "cancelled"
	MigrationFailing        = "failing" // from QEMU 11 on, on the way to failed
	MigrationFailed         = "failed"
	MigrationCompleted      = "completed"
)

// Migration is the state of the current or the last migration.
type Migration struct {
	// Status is one of the Migration constants or another of QEMU's. It is empty
	// before the first migration.
	Status string `json:"status"`

	// RAM is nil before the first round.
	RAM *RAMProgress `json:"ram"`

	TotalTime        Milliseconds `json:"total-time"`              // since the start, or of the whole once done
	SetupTime        Milliseconds `json:"setup-time"`              // before the first page
	Downtime         Milliseconds `json:"downtime"`                // once completed
	ExpectedDowntime Milliseconds `json:"expected-downtime"`       // while active
	CPUThrottle      int          `json:"cpu-throttle-percentage"` // by auto-converge

	// ErrorDesc says why the migration failed, in QEMU's words.
	ErrorDesc string `json:"error-desc"`

	// BlockedReasons say why this machine cannot be migrated at all.
	BlockedReasons []string `json:"blocked-reasons"`
}

// Ended tells whether the migration has completed, failed or been cancelled.
func (m Migration) Ended() bool {
	switch m.Status {
	case MigrationCompleted, MigrationFailed, MigrationCancelled:
		return true
	}
	return false
}

// RAMProgress has the counters of a migration's memory.
type RAMProgress struct {
	Transferred    uint64  `json:"transferred"`       // bytes sent, on all channels
	Remaining      uint64  `json:"remaining"`         // bytes of pages that are still dirty
	Total          uint64  `json:"total"`             // bytes of guest memory
	Duplicate      uint64  `json:"duplicate"`         // zero pages
	Normal         uint64  `json:"normal"`            // other pages
	NormalBytes    uint64  `json:"normal-bytes"`      // bytes of those, before compression
	DirtyPagesRate uint64  `json:"dirty-pages-rate"`  // pages a second
	Mbps           float64 `json:"mbps"`              // 10^6 bits a second
	DirtySyncCount uint64  `json:"dirty-sync-count"`  // rounds
	PageSize       uint64  `json:"page-size"`         // bytes
	MultifdBytes   uint64  `json:"multifd-bytes"`     // bytes sent on the multifd channels
	PagesPerSecond uint64  `json:"pages-per-second"`  // pages a second
	PrecopyBytes   uint64  `json:"precopy-bytes"`     // bytes sent while the guest ran
	DowntimeBytes  uint64  `json:"downtime-bytes"`    // bytes sent while it was stopped
	PostcopyBytes  uint64  `json:"postcopy-bytes"`    // bytes sent after it moved
	PostcopyAsked  uint64  `json:"postcopy-requests"` // pages that the destination asked for
}

// QueryMigrate returns the state of the migration.
func (vm *Machine) QueryMigrate(ctx context.Context) (Migration, error) {
	var m Migration
	err := vm.Execute(ctx, "query-migrate", nil, &m)
	return m, err
}

// Migrate starts an outgoing migration to uri ("unix:PATH", "tcp:HOST:PORT")
// and returns at once; QueryMigrate and the MIGRATION event report its state.
func (vm *Machine) Migrate(ctx context.Context, uri string) error {
	return vm.Execute(ctx, "migrate", map[string]string{"uri": uri}, nil)
}

// MigrateIncoming makes a QEMU that was started with "-incoming defer" listen
// at uri. Capabilities and parameters must be set before.
func (vm *Machine) MigrateIncoming(ctx context.Context, uri string) error {
	return vm.Execute(ctx, "migrate-incoming", map[string]string{"uri": uri}, nil)
}

// MigrateContinue lets a migration go on that waits in MigrationPreSwitchover, as it does
// with the capability pause-before-switchover.
func (vm *Machine) MigrateContinue(ctx context.Context) error {
	return vm.Execute(ctx, "migrate-continue", map[string]string{"state": MigrationPreSwitchover}, nil)
}

// MigrateCancel cancels the outgoing migration; the machine then runs on. Without a
// migration it does nothing.
func (vm *Machine) MigrateCancel(ctx context.Context) error {
	return vm.Execute(ctx, "migrate_cancel", nil, nil)
}

// capabilityState is one entry of the capability commands.
type capabilityState struct {
	Capability string `json:"capability"`
	State      bool   `json:"state"`
}

// QueryMigrateCapabilities tells which capabilities are on. One that this
// QEMU does not know has no entry.
func (vm *Machine) QueryMigrateCapabilities(ctx context.Context) (map[string]bool, error) {
	var list []capabilityState
	if err := vm.Execute(ctx, "query-migrate-capabilities", nil, &list); err != nil {
		return nil, err
	}
	caps := make(map[string]bool, len(list))
	for _, s := range list {
		caps[s.Capability] = s.State
	}
	return caps, nil
}

// SetMigrateCapabilities turns the given capabilities on or off and leaves
// the others. QEMU sets all of them or, with an error, none.
func (vm *Machine) SetMigrateCapabilities(ctx context.Context, caps map[string]bool) error {
	list := make([]capabilityState, 0, len(caps))
	for _, name := range slices.Sorted(maps.Keys(caps)) {
		list = append(list, capabilityState{Capability: name, State: caps[name]})
	}
	args := map[string]any{"capabilities": list}
	return vm.Execute(ctx, "migrate-set-capabilities", args, nil)
}
