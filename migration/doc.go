// Package migration joins the main channel (package vmstate) and the multifd
// channels (package multifd) into a whole migration.
//
// [Receive] is the destination: it takes the migration that a QEMU, a [Sender] or
// [Migrate] makes to a listener, and puts its pages into a guest.Sink. [Sender]
// is the source: it connects to a QEMU, or to Receive, and sends rounds of
// pages from guest.Sources and the device state at the end.
//
// [Migrate] moves memory of this process while its owner goes on writing to it:
// rounds of what was dirtied, a pause when the rest is small, and a handover
// after which exactly one side runs. Its destination is a Receive with Start.
// docs/live.md tells it as a whole.
//
// Traps: the number of channels and the method have to be the same on both
// sides; nothing on the wire says so in time. A QEMU with fewer channels than
// it is sent completes with memory missing. After an error that wraps
// [ErrUndecided] the machine may run at the destination: look before you resume
// it.
package migration
