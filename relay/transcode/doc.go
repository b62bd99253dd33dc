// Package transcode relays a migration between two QEMUs that use different methods: one
// has multifd-compression zstd, for example, and the other has none. It decodes each RAM
// packet of a multifd channel and encodes its pages again. Packets correspond one to one:
// channel, order, flags, packet number, RAM block and page lists stay, and so do the bytes
// of the header that have no meaning today. Only the method's bits among the flags, the
// length of the payload and the payload change. Device-state packets pass as they are.
//
// All other connections pass as bytes: the main channel with its return path, the
// channel of postcopy preemption, and whatever else does not begin as a multifd channel
// does. Half-closes pass, too, and a failure of one side ends the connection of the
// other.
//
// It is for a platform whose own software drives the QEMUs. [Serve] accepts and dials;
// [Carry] is for programs that do so themselves. The link between the QEMUs stays a link
// of QEMU's: package relay has a pair of relays with a link of its own.
//
// Traps: QEMU's own TLS has to be off, because an encrypted channel passes as bytes. A
// QEMU 7.2 takes its first connection for the main channel, so the destination must see
// connections in the order in which the source makes them. Serve keeps that order; a
// caller of Carry has to. The page size is known from a channel's first packet with
// pages_alloc. QEMU 11.1 leaves pages_alloc at 0 in SYNC packets, and sends one before
// all others: until then Config.PageSize counts.
package transcode
