// Package qemu saves, restores and migrates the machine of a QEMU. It sets up a migration
// over QEMU's monitor, runs it, and brings the machine back to its state, also if
// the task fails.
//
// It is for the command line, and for platforms that do the same in Go. It needs
// a qmp.Opener: qmp.Socket for a QMP socket, or another kind of monitor.
//
// Traps: a QMP socket serves one client at a time, and that client is Save,
// Restore, Migrate or Accept while they run. A process that may be killed should have a
// [Guard]: Save and Migrate start one with the command in their options, which calls
// [RunGuard].
package qemu
