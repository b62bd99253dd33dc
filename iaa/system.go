package iaa

import "time"

// System is the machine as the driver uses it. The default is the host; package
// iaamodel supplies one with modelled devices. Its methods must be safe for concurrent
// use.
type System interface {
	// OpenQueue opens a work queue's character device for reading and writing.
	OpenQueue(path string) (Node, error)
	// Instructions returns which submission instructions the processor has.
	Instructions() Instructions
	// Map returns size bytes of zeroed memory, aligned to a page, that the
	// devices can reach and that stays in place until Unmap. With populate
	// every page is present on return.
	Map(size int, populate bool) ([]byte, error)
	// Unmap unmaps memory of Map.
	Unmap(mem []byte) error
	// Touch makes the page of word present, and writable if write is set, without
	// changing its content.
	Touch(word *uint32, write bool)
	// Copy copies src to dst, of the same size. It is used for pages that a device
	// cannot access in place.
	Copy(dst, src []byte)
	// Now returns the time of a monotonic clock.
	Now() time.Duration
	// Relax waits a moment while the caller polls word, which still holds seen. round
	// counts the calls since the poll began: the higher it is, the longer Relax yields
	// the processor.
	Relax(word *uint32, seen uint32, round int)
}

// Node is an open work queue.
type Node interface {
	// Map maps the queue's portal page. Kernels refuse it with EPERM to
	// processes without CAP_SYS_RAWIO on the devices of CVE-2024-21823.
	Map() (Portal, error)
	// Write submits descriptors through write(2) and returns how many were
	// accepted. A full shared queue gives EAGAIN.
	Write(descs []Descriptor) (int, error)
	// Close closes the node and unmaps its portal. The kernel waits for the process's
	// outstanding jobs on the queue, so that no device accesses their memory
	// afterwards.
	Close() error
}

// Portal is a mapped portal page with PortalSlots addresses for submissions.
type Portal interface {
	// Enqueue submits with ENQCMD at a slot and reports whether the queue took
	// the descriptor.
	Enqueue(slot int, d *Descriptor) bool
	// Store submits with MOVDIR64B at a slot; the device does not answer.
	Store(slot int, d *Descriptor)
}

// PortalSlots is the number of 64-byte slots in a portal page. Using a different one
// for each submission avoids ordering the stores of several processors.
const PortalSlots = 64

// Instructions are the instructions of a processor for submitting to devices.
type Instructions struct {
	ENQCMD    bool `json:"enqcmd"`    // needed for mapped shared queues
	MOVDIR64B bool `json:"movdir64b"` // needed for mapped dedicated queues
	WAITPKG   bool `json:"waitpkg"`   // UMONITOR, UMWAIT and TPAUSE: cheaper polling
}
