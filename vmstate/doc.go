// Package vmstate reads and writes the main channel of a QEMU migration: the header
// and configuration, sections, the RAM section's records, commands, the return path,
// and the device state at the end.
//
// A [Reader] reads a stream as a sequence of [Event] values: RAM blocks, sync points,
// pages, commands, pieces of device state. The Reader sends no replies; its owner does.
// A [Destination] is an owner that keeps a machine: it calls a [Handler] for RAM
// events, replies through a [ReplyWriter], and keeps the device state unchanged. A
// [Writer] writes a stream that QEMU loads. All numbers are big-endian. The format is
// QEMU's migration stream, version 3, as observed from QEMU 7.2 to 11.1. The PING
// values of the verified handover ([HandoverRequest] and following) are vmferry's own.
//
// Device sections carry no length and are not parsed. The description after them
// shows the end: see [FindEnd].
//
// Traps: a section of another iterable device (VFIO, dirty bitmaps) cannot be skipped
// and ends the reading with a [SectionError]. An Event is valid until the next call.
// Destination.Run calls the Handler from one goroutine, in the stream's order;
// SyncPoint must not return before all channels have reached their SYNC.
package vmstate
