// Package qemu saves and restores the machine of a QEMU. It sets up a migration
// over QEMU's monitor, runs it, and brings the machine back to its state, also if
// the save fails.
//
// It is for the command line, and for platforms that do the same in Go. It needs
// a qmp.Opener: qmp.Socket for a QMP socket, or another kind of monitor.
//
// Traps: a QMP socket serves one client at a time, and that client is Save or
// Restore while they run. A process that may be killed should have a [Guard]: Save
// starts one with the command in SaveOptions.Guard, which calls [RunGuard].
package qemu
