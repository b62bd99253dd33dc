package iaa

import "time"

// System is everything the driver asks of the machine below it. The default is
// the host; package iaamodel supplies one with modelled devices. Its methods
// are called from many goroutines at once.
type System interface {
	// OpenQueue opens a work queue's character device for reading and writing.
	OpenQueue(path string) (Node, error)
	// Instructions tells which submission instructions the processor has.
	Instructions() Instructions
	// Map returns size bytes of zeroed memory, aligned to a page, that the
	// devices can reach and that stays in place until Unmap. With populate
	// every page is present on return.
	Map(size int, populate bool) ([]byte, error)
	// Unmap gives memory from Map back.
	Unmap(mem []byte) error
	// Touch makes the page that holds word present, and writable if write is
	// set, without changing what it holds.
	Touch(word *uint32, write bool)
	// Copy copies src to dst, of the same size: a page that could not be worked
	// on in place.
	Copy(dst, src []byte)
	// Now is a monotonic clock.
	Now() time.Duration
	// Relax passes a moment while the caller polls word, which still holds
	// seen. round counts the calls since the poll began: the longer it takes,
	// the more of the processor Relax gives away.
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
	// Close closes the node and unmaps its portal. The kernel waits for the
	// process's outstanding jobs on the queue, so that afterwards no device
	// touches their memory any more.
	Close() error
}

// Portal is a mapped portal page of PortalSlots addresses to submit at.
type Portal interface {
	// Enqueue submits with ENQCMD at a slot and reports whether the queue took
	// the descriptor.
	Enqueue(slot int, d *Descriptor) bool
	// Store submits with MOVDIR64B at a slot; the device does not answer.
	Store(slot int, d *Descriptor)
}

// PortalSlots is the number of 64-byte steps in a portal page. Submitting at a
// different one each time keeps the stores of several processors from being
// ordered behind one another.
const PortalSlots = 64

// Instructions says what a processor offers for talking to devices.
type Instructions struct {
	ENQCMD    bool `json:"enqcmd"`    // needed for mapped shared queues
	MOVDIR64B bool `json:"movdir64b"` // needed for mapped dedicated queues
	WAITPKG   bool `json:"waitpkg"`   // UMONITOR, UMWAIT and TPAUSE: cheaper polling
}
