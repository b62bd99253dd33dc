// Package guest describes a virtual machine's memory: its RAM blocks, their
// pages, and the sources and sinks of pages.
//
// Data flows one way. A [Source] yields [Batch]es of pages, a multifd method
// carries them, and a [Sink] stores them. Memory of this process (package guestmem)
// and a snapshot (package snapshot) are each a source and a sink.
//
// The package is for programs that migrate their own memory, such as a VMM written
// in Go, and for the other packages of vmferry.
//
// A [DirtyLog] reports the pages that the owner of a memory writes.
//
// The optional interfaces ([DeflatedLane], [StableLane], [AbsentLog]), which the
// migration finds by type assertion, only improve speed. A wrapper that does not
// forward one of them costs time, never a page. Safety depends only on the required
// interfaces and on the migration itself: the destination records which pages the
// source named, whatever its sink is.
//
// Traps: a [Lane] and a Batch belong to one goroutine at a time. Offsets are in
// bytes from the start of a block, and are multiples of the page size.
package guest
