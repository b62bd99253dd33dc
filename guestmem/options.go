package guestmem

import "errors"

// Errors of mapping memory. What was asked for and what the machine has is in
// the text.
var (
	// ErrNoMemory is wrapped when the machine has not enough memory.
	ErrNoMemory = errors.New("not enough memory")
	// ErrNoHugePages is wrapped when there are no huge pages, or not enough.
	ErrNoHugePages = errors.New("not enough huge pages")
	// ErrNotPresent is wrapped when memory was to be preallocated, nothing
	// failed, and pages are missing all the same.
	ErrNotPresent = errors.New("memory was preallocated and is not there")
	// ErrNUMA is wrapped when memory cannot be placed on the nodes named.
	ErrNUMA = errors.New("cannot place memory")
)

// Backing is what memory is made of.
type Backing string

const (
	// Anonymous memory is this process's alone. It is the default.
	Anonymous Backing = "anonymous"
	// Memfd memory is a file in memory, one for each block, that other
	// processes can map too: see Memory.File.
	Memfd Backing = "memfd"
)

// PageKind is the kind of pages that the kernel gives.
type PageKind string

const (
	// SmallPages are the processor's ordinary ones. It is the default.
	SmallPages PageKind = "small"
	// TransparentHuge asks for huge pages where the kernel has some, and does
	// with small ones where not.
	TransparentHuge PageKind = "transparent"
	// HugeTLB takes pages from the pool that the administrator set aside.
	// There are enough, or mapping fails.
	HugeTLB PageKind = "hugetlb"
)

// Prealloc is how memory is made present before it is used. What is not
// preallocated costs a page fault at the first write of each page.
type Prealloc string

const (
	// PreallocNone leaves it to the first write. It is the default.
	PreallocNone Prealloc = "none"
	// PreallocTouch writes to each page.
	PreallocTouch Prealloc = "touch"
	// PreallocPopulate asks the kernel for many pages at a time
	// (MADV_POPULATE_WRITE, Linux 5.14; before that, touch).
	PreallocPopulate Prealloc = "populate"
)

// NUMAPolicy is how nodes are chosen.
type NUMAPolicy string

const (
	// NUMADefault takes memory from the node of the thread that writes first.
	NUMADefault NUMAPolicy = ""
	// NUMAPrefer takes it from the first node named while that has some.
	NUMAPrefer NUMAPolicy = "prefer"
	// NUMABind takes it from the nodes named and from no others.
	NUMABind NUMAPolicy = "bind"
	// NUMAInterleave goes around the nodes named, page by page.
	NUMAInterleave NUMAPolicy = "interleave"
)

// Options say how the memory of RAM blocks is mapped. The zero value is
// anonymous memory of small pages, none of them present.
type Options struct {
	Backing Backing
	Pages   PageKind
	// HugePageSize in bytes is for HugeTLB, such as 2 MiB or 1 GiB; 0 is the
	// system's default.
	HugePageSize uint64
	Prealloc     Prealloc
	// Workers is how many threads preallocate; 0 is one a processor, 8 at
	// most.
	Workers int
	NUMA    NUMAPolicy
	Nodes   []int
}
