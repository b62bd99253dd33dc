// Package qemu drives a QEMU through saving and restoring a machine: it sets
// the migration up over QMP, runs it, and sees to it that the machine goes on
// running whatever happens.
//
// It is for the command line, and for platforms that want the same in Go.
//
// Traps: a QMP socket serves one client at a time, and it is in use while Save
// or Restore runs. A process that may be killed should have a [Guard], which
// Save starts if it is told how.
package qemu
