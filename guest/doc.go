// Package guest describes a virtual machine's memory: its RAM blocks, the
// pages in them, and where pages come from and go to.
//
// Data flows one way. A [Source] yields [Batch]es of pages, a multifd method
// carries them, and a [Sink] takes them in. Memory of this process is both (package
// guestmem), and so is a snapshot (package snapshot).
//
// It is for programs that migrate memory of their own, such as a VMM written
// in Go, and for the rest of vmferry.
//
// A [DirtyLog] says which pages the owner of a memory writes.
//
// An interface that is looked for by a type assertion ([DeflatedLane], [StableLane],
// [AbsentLog]) offers speed only: a wrapper that does not forward it costs time,
// never a page. What is needed for safety is in the interface that everybody has
// to implement, or the migration sees to it itself: the destination keeps its own
// account of the pages that were named, whatever its sink is.
//
// Traps: a [Lane] and a Batch belong to one goroutine at a time. Offsets are
// bytes from the start of a block, always a multiple of the page size.
package guest
