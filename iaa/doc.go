// Package iaa drives Intel's In-Memory Analytics Accelerator (IAA, first called IAX)
// from Go, through the work queues of Linux's idxd driver: it compresses pages to
// deflate streams and inflates them. It needs neither libqpl nor libaccel-config nor
// cgo. It does not fall back to software: a failed job returns an error with its cause.
// Package iaa/hybrid adds the software.
//
// # Shape
//
// Discover and Probe list a machine's devices and queues; for each that is not usable
// they give the reason and a remedy. Open returns a Device: all usable queues, those
// near the memory's NUMA node first. Goroutines share a Device, and each submits jobs
// through a Session of its own: SubmitCompress or SubmitInflate on a slot, then Poll or
// Wait. Stats counts the jobs by outcome.
//
// # Memory
//
// A device accesses virtual addresses at any time between a submission and its
// completion. It therefore gets only addresses of memory that stays mapped: a session's
// own, memory of Device.NewMemory, and memory that the caller registered with
// Device.Register, such as a guest's. Other slices, for example of the Go heap, are
// copied through the session's buffers.
//
// Each page that is not present costs the device a page fault; many page faults make
// the hardware several times slower. Buffers are therefore prefaulted, and Stats counts
// the other faults.
//
// # When a job does not complete
//
// After Options.JobTimeout the job fails with ErrTimeout, but the device may still
// write to its memory. The slot is lost until the job completes late, or until
// Session.Drain has shown that the device no longer has it. If the job's destination is
// registered memory, the caller must neither unmap nor use that memory before Drain has
// succeeded.
//
// # Limits
//
// One job is one page and one deflate stream. Streams whose matches reach back further
// than 4 KiB are ErrMalformed to the hardware, though not to software. The driver was
// written from public documents. It has run against the model in package iaamodel only,
// never on a device.
package iaa
