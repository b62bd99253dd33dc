// Package qemutest starts real QEMUs for tests, for the demo and for
// benchmarks. Inside runs a small Linux guest that counts aloud on its serial
// console and keeps checking its own memory, so that a test can tell whether
// a machine survived being moved: [VM.WaitProgress] when it goes on counting,
// [VM.WaitVerified] when it has looked at all its pages again, [VM.Corrupt]
// when one of them is not what it wrote.
//
// scripts/setup prepares what is needed and writes down where it is; without
// that everything here fails with [ErrNotSetUp]. Tests never skip for it.
// Tests that need a real QEMU have the build tag realqemu:
//
//	scripts/setup test && go test -tags realqemu ./...
//
// # Traps
//
// There is no KVM where this must run, so the guest is emulated: it takes
// some seconds to boot, and a busy machine slows it down. Wait with generous
// deadlines; a wait ends at once when QEMU exits or the guest finds corruption.
//
// An incoming machine must be given the same Config as its source (Version
// may differ, if Machine is known to both) with Incoming set. Its serial
// console starts empty, and the count in it goes on where the source's
// stopped.
//
// A QEMU 7.2 gets 128 KiB less memory than Config.MemoryMiB says, because it
// loses dirty pages under emulation when a block is a multiple of 64 pages
// (see Config.MemoryBytes). A destination of another version takes over the
// source's VM.Config, which holds the exact size.
//
// While one process is connected to the first QMP socket no other is served
// on it; a test that looks in meanwhile uses the second, [VM.QMPPath2].
package qemutest
