// Package live moves memory of a Go program while the program goes on writing to it:
// rounds of what was dirtied, a pause when the rest is small, and a handover after
// which exactly one side runs.
//
// It is for VMMs and other programs that hold guest memory. [Migrate] is the source,
// [Receive] the destination. Both are built on package migration, whose wire is that of
// QEMU: a source can also move into a snapshot, and a destination takes a QEMU. The
// words of the handover are in package vmstate. docs/live.md describes the whole.
//
// Traps: after an error that wraps [ErrUndecided] the machine may run at the
// destination. Look there before you resume it.
package live
