// Package multifd speaks the wire of QEMU's multifd migration channels: the
// handshake, RAM packets, SYNC, device-state packets, and the methods that
// carry pages (none, zlib, zstd, qpl, uadk, qatzip).
//
// A migration has one main channel (package vmstate) and N multifd channels.
// A [Receiver] reads one of them and puts pages into a [guest.Lane]; a
// [Sender] writes one from [guest.Batch]es. Package migration joins them.
//
// The wire is big-endian. A channel begins with a handshake of 64 bytes; packets
// follow. The header of a RAM packet has 320 bytes, and 8 more for each page that a
// packet can hold at most. The method's payload follows the header. The layout is that
// of QEMU's migration/multifd.h, versions 7.2 to 11.1, as recorded on the wire.
//
// Traps: a channel may be read only in step with the main channel. A page can be sent
// again in a later round over another channel. After a SYNC a reader must therefore
// wait until the main channel and all other channels have reached the same sync point.
// Receiver does not wait by itself.
package multifd
