package guestmem

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/guest"
)

// mapping is the memory that was mapped for one block. Its length is the block's
// length, rounded up to a multiple of the pages that back it.
type mapping struct {
	mem  []byte
	page uint64   // size of the requested pages in bytes
	file *os.File // the memfd, nil for anonymous memory
}

// mapMemory maps size bytes according to opts, and preallocates them if opts
// request it.
func mapMemory(name string, size uint64, opts *Options) (_ mapping, err error) {
	page, err := backingPage(opts)
	if err != nil {
		return mapping{}, err
	}
	size = (size + page - 1) &^ (page - 1)
	if size > 1<<62 {
		return mapping{}, fmt.Errorf("%w: %d bytes", ErrNoMemory, size)
	}
	if opts.Prealloc != "" && opts.Prealloc != PreallocNone && opts.Pages != HugeTLB {
		// Linux overcommits memory: the mapping would succeed, and the OOM
		// killer would end a process later.
		if free := availableMemory(); size > free {
			return mapping{}, fmt.Errorf("%w: preallocating %d MiB, but only %d MiB are available", ErrNoMemory, size>>20, free>>20)
		}
	}
	m := mapping{page: page}
	fd, flags := -1, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS
	switch opts.Backing {
	case "", Anonymous:
		if opts.Pages == HugeTLB {
			flags |= unix.MAP_HUGETLB | hugeShift(page)<<unix.MAP_HUGE_SHIFT
		}
	case Memfd:
		if m.file, err = newMemfd(name, size, page, opts.Pages == HugeTLB); err != nil {
			return mapping{}, err
		}
		fd, flags = int(m.file.Fd()), unix.MAP_SHARED
	default:
		return mapping{}, fmt.Errorf("%w: unknown backing %q (want anonymous or memfd)", guest.ErrLayout, opts.Backing)
	}
	if opts.Pages != HugeTLB { // mmap must reserve the pages of HugeTLB
		flags |= unix.MAP_NORESERVE
	}
	if m.mem, err = mapAligned(size, page, fd, flags); err != nil {
		m.unmap()
		if opts.Pages == HugeTLB && errors.Is(err, unix.ENOMEM) {
			return mapping{}, noHugePages(size, page)
		}
		return mapping{}, fmt.Errorf("mapping %d bytes: %w", size, err)
	}
	if err := m.prepare(page, opts); err != nil {
		m.unmap()
		return mapping{}, err
	}
	return m, nil
}

// Available reports whether this system has the kind of pages that opts request. It
// does not check how many are free.
func Available(opts Options) bool {
	_, err := backingPage(&opts)
	return err == nil
}

// prepare sets the NUMA policy of the memory and preallocates it.
func (m *mapping) prepare(page uint64, opts *Options) error {
	if opts.Pages == TransparentHuge {
		if err := unix.Madvise(m.mem, unix.MADV_HUGEPAGE); err != nil {
			return fmt.Errorf("%w: this kernel has no transparent huge pages (%w)", ErrNoHugePages, err)
		}
	}
	if err := setNUMAPolicy(m.mem, opts); err != nil {
		return err
	}
	return preallocate(m.mem, page, opts)
}

func (m *mapping) unmap() error {
	var err error
	if m.mem != nil {
		err = unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(m.mem)), uintptr(len(m.mem)))
		m.mem = nil
	}
	if m.file != nil {
		err = errors.Join(err, m.file.Close())
		m.file = nil
	}
	return err
}

// mapAligned maps memory at a multiple of align, so that the kernel can use huge
// pages at both ends.
func mapAligned(size, align uint64, fd, flags int) ([]byte, error) {
	const prot = unix.PROT_READ | unix.PROT_WRITE
	if align <= uint64(os.Getpagesize()) {
		p, err := unix.MmapPtr(fd, 0, nil, uintptr(size), prot, flags)
		if err != nil {
			return nil, err
		}
		return unsafe.Slice((*byte)(p), size), nil
	}
	// Reserve addresses for any alignment, and unmap the unused ones below.
	reserved, err := unix.MmapPtr(-1, 0, nil, uintptr(size+align), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	head := (align - uint64(uintptr(reserved))%align) % align
	at := unsafe.Add(reserved, head)
	if _, err := unix.MmapPtr(fd, 0, at, uintptr(size), prot, flags|unix.MAP_FIXED); err != nil {
		unix.MunmapPtr(reserved, uintptr(size+align))
		return nil, err
	}
	if head > 0 {
		unix.MunmapPtr(reserved, uintptr(head))
	}
	if tail := align - head; tail > 0 {
		unix.MunmapPtr(unsafe.Add(at, size), uintptr(tail))
	}
	return unsafe.Slice((*byte)(at), size), nil
}

// newMemfd creates a memfd and seals its size. Without the seal, another process
// that has the file could truncate it, and this process would get SIGBUS.
func newMemfd(name string, size, page uint64, huge bool) (*os.File, error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	if huge {
		flags |= unix.MFD_HUGETLB | hugeShift(page)<<unix.MFD_HUGE_SHIFT
	}
	name = "vmferry:" + strings.ReplaceAll(name, "\x00", "?")
	fd, err := unix.MemfdCreate(name[:min(len(name), 200)], flags)
	if err != nil {
		if huge {
			return nil, fmt.Errorf("%w: no memfd of pages of %d KiB: %w", ErrNoHugePages, page>>10, err)
		}
		return nil, fmt.Errorf("creating a memfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		f.Close()
		return nil, fmt.Errorf("growing a memfd to %d bytes: %w", size, err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		f.Close()
		return nil, fmt.Errorf("sealing a memfd's size: %w", err)
	}
	return f, nil
}

// hugeShift returns log2 of a page size, the form that mmap and memfd_create take.
func hugeShift(page uint64) int {
	n := 0
	for page > 1 {
		page >>= 1
		n++
	}
	return n
}

const hugePagesFolder = "/sys/kernel/mm/hugepages"

// backingPage returns the size in bytes of the pages that opts request. It fails if
// the system has no pages of that kind and size.
func backingPage(opts *Options) (uint64, error) {
	switch opts.Pages {
	case "", SmallPages:
		return uint64(os.Getpagesize()), nil
	case TransparentHuge:
		return transparentPage(opts.Backing)
	case HugeTLB:
	default:
		return 0, fmt.Errorf("%w: unknown kind of pages %q (want small, transparent or hugetlb)", guest.ErrLayout, opts.Pages)
	}
	size := opts.HugePageSize
	if size == 0 {
		kib, err := meminfo("Hugepagesize")
		if err != nil || kib == 0 {
			return 0, fmt.Errorf("%w: this system has no hugetlb pages", ErrNoHugePages)
		}
		size = kib << 10
	}
	if size&(size-1) != 0 {
		return 0, fmt.Errorf("%w: size %d is not a power of two", ErrNoHugePages, size)
	}
	if _, err := os.Stat(poolFolder(size)); err != nil {
		return 0, fmt.Errorf("%w: this system has no pages of %d KiB (see %s for the sizes it has)", ErrNoHugePages, size>>10, hugePagesFolder)
	}
	return size, nil
}

// transparentPage returns the size of transparent huge pages in bytes. It fails if
// the system has them off.
func transparentPage(b Backing) (uint64, error) {
	const folder = "/sys/kernel/mm/transparent_hugepage/"
	setting := folder + "enabled"
	if b == Memfd {
		setting = folder + "shmem_enabled"
	}
	text, err := os.ReadFile(setting)
	if err != nil {
		return 0, fmt.Errorf("%w: this kernel has no transparent huge pages", ErrNoHugePages)
	}
	if strings.Contains(string(text), "[never]") || strings.Contains(string(text), "[deny]") {
		return 0, fmt.Errorf("%w: transparent huge pages are off in %s (write madvise to the file, or advise for shmem)", ErrNoHugePages, setting)
	}
	if n, err := readNumber(folder + "hpage_pmd_size"); err == nil && n > 0 && n&(n-1) == 0 {
		return n, nil
	}
	return 2 << 20, nil
}

func poolFolder(page uint64) string {
	return fmt.Sprintf("%s/hugepages-%dkB", hugePagesFolder, page>>10)
}

// noHugePages returns an error that says how many huge pages are free, and how many
// to reserve.
func noHugePages(size, page uint64) error {
	free, _ := readNumber(poolFolder(page) + "/free_hugepages")
	reserved, _ := readNumber(poolFolder(page) + "/resv_hugepages")
	total, _ := readNumber(poolFolder(page) + "/nr_hugepages")
	want := size / page
	available := free - min(free, reserved)
	return fmt.Errorf("%w: need %d of %d KiB, but %d are free (write %d or more to %s/nr_hugepages)",
		ErrNoHugePages, want, page>>10, available, total+want-min(want, available), poolFolder(page))
}

func readNumber(path string) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// setNUMAPolicy sets the policy by which the kernel chooses NUMA nodes for mem.
func setNUMAPolicy(mem []byte, opts *Options) error {
	var mode uintptr
	switch opts.NUMA {
	case NUMADefault:
		if len(opts.Nodes) == 0 {
			return nil
		}
		return fmt.Errorf("%w: nodes %v without a policy", ErrNUMA, opts.Nodes)
	case NUMAPrefer:
		mode = unix.MPOL_PREFERRED
	case NUMABind:
		mode = unix.MPOL_BIND
	case NUMAInterleave:
		mode = unix.MPOL_INTERLEAVE
	default:
		return fmt.Errorf("%w: unknown policy %q (want prefer, bind or interleave)", ErrNUMA, opts.NUMA)
	}
	nodes := opts.Nodes
	if len(nodes) == 0 {
		return fmt.Errorf("%w: policy %q without a node", ErrNUMA, opts.NUMA)
	}
	if opts.NUMA == NUMAPrefer {
		nodes = nodes[:1] // MPOL_PREFERRED takes one node
	}
	const most = 1024
	if slices.Min(nodes) < 0 || slices.Max(nodes) >= most {
		return fmt.Errorf("%w: nodes %v (want 0 to %d)", ErrNUMA, nodes, most-1)
	}
	var mask [most / 64]uint64
	for _, n := range nodes {
		mask[n/64] |= 1 << (n % 64)
	}
	_, _, errno := unix.Syscall6(unix.SYS_MBIND, uintptr(unsafe.Pointer(unsafe.SliceData(mem))), uintptr(len(mem)),
		mode, uintptr(unsafe.Pointer(&mask)), most+1, 0)
	switch {
	case errno == unix.EINVAL:
		return fmt.Errorf("%w: nodes %v: a node has no memory or does not exist", ErrNUMA, nodes)
	case errno != 0:
		return fmt.Errorf("%w: nodes %v: %w", ErrNUMA, nodes, errno)
	}
	return nil
}
