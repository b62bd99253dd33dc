// Package faults is the engine of "vmferry bench faults": it measures what the
// destination of a migration pays in page faults.
//
// Guest memory is taken in as a qpl destination does it, by one thread: packets
// of data pages are placed, inflated and committed, zero pages are named. Then
// the guest writes to some of the pages that were zero. This is done for two
// policies towards zero pages, for memory that is preallocated in several ways
// or not at all, and directly or by a bounce buffer: see [Cell].
//
// A third of the pages carry data, a third are zero and stay so, a third are
// zero first and written later; the three take turns page by page.
//
// Faults are those of the measuring thread alone, counted by the kernel.
// Another thread writes to a buffer of its own all the while: without a second
// processor that uses the same page tables no TLB entry would have
// to be shot down.
//
// The same package measures the buffers that compressed pages pass through, see
// [BufferCell].
package faults
