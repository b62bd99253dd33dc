// Package migration joins the main channel (package vmstate) and the multifd channels
// (package multifd) into a whole migration.
//
// It is for programs that transfer a machine's memory: a snapshot tool, a VMM, a relay.
// [Receive] is the destination: it accepts the migration of a QEMU or a [Sender] on a
// listener, and writes the pages to a guest.Sink. [Inbound] has its phases. [Sender] is
// the source: it connects to a QEMU or to Receive, and sends rounds of pages from
// guest.Sources and finally the device state. Package live moves a running machine;
// package migration/stored sends a snapshot.
//
// Traps: both sides need the same number of channels and the same method, and the wire
// does not negotiate them. A QEMU with fewer channels than the source completes with
// memory missing.
package migration
