// Package qemutest starts real QEMUs for tests, for the demo and for benchmarks. A small
// Linux guest prints a growing count on its serial console and checks its own memory, so
// that a test can find out whether a machine survived a migration. [VM.WaitProgress]
// waits until the count grows, [VM.WaitVerified] waits until the guest has checked all
// its pages, and [VM.Corrupt] returns an error if a page does not hold what the guest
// wrote to it.
//
// scripts/setup prepares QEMU and the guest, and writes their paths to a file. Without
// that file, all functions here fail with [ErrNotSetUp]; tests are not skipped. Tests
// that need a real QEMU have the build tag realqemu:
//
//	scripts/setup test && go test -tags realqemu ./...
//
// # Traps
//
// The tests must run without KVM, so the guest is emulated: it takes some seconds to
// boot, and a busy machine slows it down. Wait with generous deadlines; a wait ends at
// once when QEMU exits or the guest finds corruption.
//
// An incoming machine needs the Config of its source with Incoming set. Version may
// differ if both versions have the type Machine. The serial console of an incoming
// machine starts empty, and its count continues from the last count of the source.
//
// A QEMU 7.2 gets 128 KiB less memory than Config.MemoryMiB says, because it loses dirty
// pages under emulation when a block is a multiple of 64 pages (see Config.MemoryBytes).
// For a destination of another version, use VM.Config of the source, which has the exact
// size.
//
// The first QMP socket serves one client at a time. A test that needs a monitor at the
// same time uses the second socket, [VM.QMPPath2].
package qemutest
