// Package live moves memory of a Go program while the program continues to write to it:
// rounds of dirty pages, a pause when few pages remain, and a handover after which
// exactly one side runs.
//
// It is for VMMs and other programs that hold guest memory. [Migrate] is the source,
// [Receive] the destination. Both use package migration and QEMU's wire format: a source
// can also send to a snapshot, and a destination can receive a QEMU machine. Package
// vmstate has the handover codes. docs/guide/live.md is a guide;
// docs/reference/live.md describes the protocol.
//
// Traps: after an error that wraps [ErrUndecided] the machine may run at the
// destination. Check the destination before you resume the source.
package live
