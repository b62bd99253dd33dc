// Package vmstate speaks the main channel of a QEMU migration: the header and
// configuration, sections, the RAM section's records, commands, the return
// path, and the device state at the end.
//
// A [Reader] reads a stream as an [Event] each: RAM blocks, sync points, pages,
// commands, pieces of device state. The Reader answers nothing; its owner does. A
// [Destination] is the owner that keeps a machine: it calls a [Handler] for what has
// to do with RAM, answers by a [ReplyWriter], and keeps the device state byte for
// byte. A [Writer] makes the stream that a QEMU loads. Everything is big-endian. The
// layout is that of QEMU's migration stream, version 3, as seen from QEMU 7.2 to 11.1.
//
// Device sections carry no length, so they are not parsed. The end is found
// by the description that follows them: see [FindEnd].
//
// Traps: a section of another iterable device (VFIO, dirty bitmaps) cannot be skipped
// and ends the reading with a [SectionError]. An Event is valid until the next call.
// Destination.Run calls the Handler from one goroutine, in the stream's order;
// SyncPoint must not return before all channels have met their SYNC.
package vmstate
