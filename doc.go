// Package vmferry carries the memory of running virtual machines: it saves them while
// they run, restores them, and receives and sends QEMU's live migrations.
//
// It is for platforms written in Go, and is what the command vmferry calls: each use
// case is one function. [Save] saves a QEMU machine to a snapshot while it runs, and
// [Restore] starts it in another QEMU. [Receive] keeps a migration that another program
// drives, and [Send] sends a snapshot to a destination. [Inspect], [Verify] and [Export]
// read a snapshot. A [Snapshot] names where it is and how its pages are kept.
//
// A result is what the command writes under --json, and a migration.Progress a line of
// its progress. The packages below this one are for programs that need a part: migration
// and live carry memory of Go programs, snapshot and store keep it, multifd and vmstate
// are QEMU's wire.
//
// Traps: a machine that is saved runs on, so its disks change: see AtPause. A QEMU takes
// one incoming migration, whether it succeeds or fails. An accelerator that a
// migration.Wire names is closed by its owner.
package vmferry
