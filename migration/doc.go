// Package migration joins the main channel (package vmstate) and the multifd channels
// (package multifd) into a whole migration.
//
// It is for programs that carry a machine's memory: a snapshot tool, a VMM, a relay.
// [Receive] is the destination: it takes the migration that a QEMU or a [Sender] makes
// to a listener, and puts its pages into a guest.Sink. Its phases are those of
// [Inbound]. [Sender] is the source: it connects to a QEMU, or to Receive, and sends
// rounds of pages from guest.Sources and the device state at the end. Package live
// moves a machine that runs; package migration/stored sends a snapshot.
//
// Traps: the number of channels and the method have to be the same on both sides;
// nothing on the wire says so in time. A QEMU with fewer channels than it is sent
// completes with memory missing.
package migration
