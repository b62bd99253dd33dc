// Package iaamodel is a model of Intel's In-Memory Analytics Accelerator and of its
// Linux interface: a sysfs tree and device nodes, queues that fill up, checks of
// descriptors, a page table, engines that complete out of order, and scripted faults.
// It is for tests of package iaa and its users on machines without the hardware, and for
// "vmferry bench iaa --destination":
//
//	m, err := iaamodel.New(t.TempDir(), iaamodel.Uniform(1, nil))
//	dev, err := iaa.Open(ctx, m.Options())
//
// # Two ways to run
//
// Without a Clock engines are goroutines, and jobs take real time. This is for tests,
// above all with the race detector: driver and engines share memory of the Go heap
// unless Config.Mapped is set. With a Clock the machine is a simulation in virtual time
// with the published timings. It runs in one thread and is repeatable; it measures how
// well a driver keeps devices busy.
//
// # What it models
//
// NOOP, DRAIN, COMPRESS (with an AECS, statistics, and on version 2 with header
// generation) and DECOMPRESS of one whole stream, by an inflate of its own with the 4
// KiB history and the error codes. With Config.IOMMU and a Clock it models how devices
// translate addresses: their TLBs, the queues of page requests, and flushes. It does not
// model filters, CRC64, streams over several descriptors, interrupts, or event logs
// beyond their effect on a record that cannot be written.
//
// # Traps
//
// Memory that a device may use must be in the page table: memory that the driver maps
// is, guest memory comes from Machine.Guest, and all other memory always faults. The
// model's streams differ from those of a device: compare what they inflate to, not
// their bytes. Machine.Violations lists a driver's errors, also those without an
// effect; check it at the end of every test.
package iaamodel
