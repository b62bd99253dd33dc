// Package guestmem provides guest memory of this process: memory that is mapped for
// the RAM blocks of a layout, and that is a source and a sink of pages.
//
// The package is for Go programs that migrate their own memory, such as a VMM, and
// for the destination of a migration without QEMU.
//
// [New] and [NewWith] map memory according to [Options]: anonymous or shared, of
// small or huge pages, preallocated or not, on selected NUMA nodes. [Attach] uses
// memory that the caller mapped. [Memory] is a [guest.Sink] that receives pages in
// place. Its methods All, AllBut and Dirty return a [guest.Source] of the memory
// itself. [Bounced] is a sink that copies each page from a prefaulted buffer.
//
// Traps: the first write of an absent page costs a page fault. Memory neither reads
// nor writes a page that arrives as zero and was not received before. Such a page
// therefore keeps bytes that the program wrote through Bytes or File before the end
// of the migration.
package guestmem
