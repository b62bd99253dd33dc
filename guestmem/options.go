package guestmem

import "errors"

// Errors of mapping memory. The text of an error that wraps one says what was
// requested and what the machine has.
var (
	// ErrNoMemory is wrapped if the machine has too little memory available.
	ErrNoMemory = errors.New("guestmem: not enough memory")
	// ErrNoHugePages is wrapped if the machine has no huge pages of the
	// requested kind, or too few.
	ErrNoHugePages = errors.New("guestmem: not enough huge pages")
	// ErrNotPresent is wrapped if the kernel preallocated memory without an
	// error, but pages are absent afterwards.
	ErrNotPresent = errors.New("guestmem: preallocated memory is not present")
	// ErrNUMA is wrapped if memory cannot be placed on the requested nodes.
	ErrNUMA = errors.New("guestmem: cannot place memory on NUMA nodes")
)

// Backing is the kind of mapping that holds the memory.
type Backing string

const (
	// Anonymous is private memory of this process. It is the default.
	Anonymous Backing = "anonymous"
	// Memfd is a memfd for each block, which other processes can map too: see
	// Memory.File.
	Memfd Backing = "memfd"
)

// PageKind is the kind of pages that back the memory.
type PageKind string

const (
	// SmallPages are pages of the processor's base page size. It is the
	// default.
	SmallPages PageKind = "small"
	// TransparentHuge requests transparent huge pages. The kernel uses small
	// pages where it has no huge page.
	TransparentHuge PageKind = "transparent"
	// HugeTLB takes pages from the pool that the administrator reserved. Mapping
	// fails if the pool has too few.
	HugeTLB PageKind = "hugetlb"
)

// Prealloc is the way to make memory present before its first use. The first write
// of a page that was not preallocated costs a page fault.
type Prealloc string

const (
	// PreallocNone does not preallocate. It is the default.
	PreallocNone Prealloc = "none"
	// PreallocTouch writes to each page.
	PreallocTouch Prealloc = "touch"
	// PreallocPopulate makes many pages present in one system call
	// (MADV_POPULATE_WRITE, Linux 5.14). On an older kernel it is
	// PreallocTouch.
	PreallocPopulate Prealloc = "populate"
)

// NUMAPolicy is the policy by which the kernel chooses NUMA nodes.
type NUMAPolicy string

const (
	// NUMADefault takes memory from the node of the thread that writes first.
	NUMADefault NUMAPolicy = ""
	// NUMAPrefer takes memory from the first of Nodes while that has some free.
	NUMAPrefer NUMAPolicy = "prefer"
	// NUMABind takes memory only from Nodes.
	NUMABind NUMAPolicy = "bind"
	// NUMAInterleave takes memory from Nodes in turn, page by page.
	NUMAInterleave NUMAPolicy = "interleave"
)

// Options direct how the memory of RAM blocks is mapped. The zero value maps
// anonymous memory of small pages without preallocation.
type Options struct {
	Backing Backing
	Pages   PageKind
	// HugePageSize is the page size of HugeTLB in bytes, such as 2 MiB or 1 GiB.
	// 0 selects the system's default.
	HugePageSize uint64
	Prealloc     Prealloc
	// Workers is the number of threads that preallocate. 0 selects one for each
	// processor, at most 8.
	Workers int
	NUMA    NUMAPolicy
	// Nodes are the NUMA nodes of the policy NUMA, 0 to 1023.
	Nodes []int
}
