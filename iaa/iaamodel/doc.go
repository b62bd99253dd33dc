// Package iaamodel is a model of Intel's In-Memory Analytics Accelerator and of
// what Linux shows of it, faithful enough that a driver cannot tell: a sysfs
// tree and device nodes, queues that fill up, descriptors that are checked, a page
// table, engines that complete out of order, and faults to order. It is for
// tests of package iaa and of anything that uses it, on machines without the
// hardware:
//
//	m, err := iaamodel.New(t.TempDir(), iaamodel.Uniform(1, nil))
//	dev, err := iaa.Open(ctx, m.Options())
//
// # Two ways to run
//
// Without a Clock engines are goroutines, and jobs take the time they take: for
// tests, with the race detector above all, since the memory that driver and
// engines share is of the Go heap unless Config.Mapped is set. With a Clock the
// machine is a simulation in virtual time with the published timings, in one
// thread and repeatable: for measuring how well a driver keeps devices busy.
//
// # What it knows
//
// NOOP, DRAIN, COMPRESS (with an AECS, statistics, and on version 2 with header
// generation) and DECOMPRESS of one whole stream, by an inflate of its own with
// the 4 KiB history and the error codes. It does not know filters, CRC64,
// streams over several descriptors, interrupts, nor event logs beyond their
// effect on a record that cannot be written.
//
// # Traps
//
// Memory that a device may use must be known to the page table: what the
// driver maps is, guest memory comes from Machine.Guest, and everything else
// faults for good. What the model's compressor produces differs from what a
// device would: judge it by inflating it. Machine.Violations tells what a driver
// did wrong without anything having gone wrong yet; check it at the end of every test.
package iaamodel
