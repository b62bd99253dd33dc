// Package guestmem is guest memory in this process: memory that is mapped for the RAM
// blocks of a layout, as a source and a sink of pages.
//
// It is for Go programs that migrate memory of their own, such as a VMM, and for the
// destination of a migration that has no QEMU.
//
// [New] and [NewWith] map memory as [Options] say: anonymous or shared, of small or
// huge pages, present from the start or not, on the NUMA nodes named. [Attach] takes
// memory that the caller mapped. [Memory] is a [guest.Sink]: pages arrive in place.
// Its methods All, AllBut and Dirty give a [guest.Source] of the memory itself.
// [Bounced] is a sink that copies each page from a buffer that is present.
//
// Traps: a page that is absent costs a page fault at its first write. A zero page that
// was not received before is neither read nor written. Memory that was written through
// Bytes or File before a migration ends keeps what was written there.
package guestmem
