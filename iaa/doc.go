// Package iaa drives Intel's In-Memory Analytics Accelerator (IAA, first called
// IAX) from Go, through the work queues of Linux's idxd driver: it compresses
// pages to deflate streams and inflates them. It needs neither libqpl nor
// libaccel-config nor cgo. It does not fall back to software: every failed job is
// an error that says why, and package iaa/hybrid does the rest.
//
// # Shape
//
// Discover and Probe tell what a machine has, and of what is not usable why and
// what to do. Open gives a Device: every usable queue, those near the memory's
// NUMA node first. A Device is shared; each goroutine works through a Session
// of its own, whose slots are jobs: SubmitCompress or SubmitInflate, then Poll or
// Wait. Stats counts every path a job can take.
//
// # Memory
//
// A device works on virtual addresses, at any time between a submission and its
// completion. So it is only pointed at memory that stays: a session's own, memory
// of Device.NewMemory, and memory the caller has vouched for with
// Device.Register, such as a guest's. Any other slice, of the Go heap for
// example, works too, by a copy through the session's buffers.
//
// A page the device finds not present costs a page fault, and a storm of those
// makes the hardware several times slower than it is. Buffers are therefore
// prefaulted, and Stats shows the faults of the rest.
//
// # When a job does not complete
//
// After Options.JobTimeout the job is given up with ErrTimeout, but the device
// may still write to its memory. The slot is lost until the job completes late,
// or Session.Drain has shown that the device no longer has it. If the job's
// destination was registered memory, the caller must not let go of that memory,
// nor put anything there that matters, before Drain has succeeded.
//
// # Limits
//
// One job is one page and one deflate stream. Streams whose matches reach back
// further than 4 KiB are ErrMalformed to the hardware, though not to software.
// The driver was written from public documents and has been run against the
// model in package iaamodel only, never on a device.
package iaa
