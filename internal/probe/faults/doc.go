// Package faults is the engine of "vmferry bench faults": it measures what the
// destination of a migration pays in page faults.
//
// One thread fills guest memory as the destination of a qpl migration does: it inflates
// packets of data pages into place and commits them, and reports zero pages. Then the
// guest writes to some of the zero pages. The package measures two policies for zero
// pages, with memory that is preallocated in several ways or not at all, and with and
// without a bounce buffer: see [Cell].
//
// Of three consecutive pages, one has data, one is zero and stays zero, and one is zero
// and is written later.
//
// The kernel counts the faults of the measuring thread alone. Meanwhile another thread
// writes to a buffer of its own: TLB shoot-downs happen only if a second processor uses
// the same page tables.
//
// The package also measures the buffers for compressed pages, see [BufferCell].
package faults
