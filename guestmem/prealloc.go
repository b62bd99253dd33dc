package guestmem

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/guest"
)

// stretch is the memory in bytes that a worker preallocates in one step.
const stretch = 64 << 20

// preallocate makes mem present and verifies that it is.
func preallocate(mem []byte, page uint64, opts *Options) error {
	step := touch
	switch opts.Prealloc {
	case "", PreallocNone:
		return nil
	case PreallocTouch:
	case PreallocPopulate:
		step = populate
	default:
		return fmt.Errorf("%w: unknown preallocation %q (want none, touch or populate)", guest.ErrLayout, opts.Prealloc)
	}
	workers := opts.Workers
	if workers <= 0 {
		workers = min(runtime.GOMAXPROCS(0), 8)
	}
	size := max(stretch, page)
	var next atomic.Uint64
	var group errgroup.Group
	for range workers {
		group.Go(func() error {
			for {
				at := next.Add(size) - size
				if at >= uint64(len(mem)) {
					return nil
				}
				if err := step(mem[at:min(at+size, uint64(len(mem)))], page); err != nil {
					return fmt.Errorf("preallocating %d MiB, at %d MiB: %w", len(mem)>>20, at>>20, err)
				}
			}
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	missing, err := absent(mem)
	if err != nil {
		return fmt.Errorf("verifying that %d MiB are present: %w", len(mem)>>20, err)
	}
	if missing > 0 {
		return fmt.Errorf("%w: %d of %d pages are absent (check the memory limits of this process)", ErrNotPresent, missing, len(mem)/os.Getpagesize())
	}
	return nil
}

// populate asks the kernel to make all of mem present and writable.
func populate(mem []byte, page uint64) error {
	for {
		switch err := unix.Madvise(mem, unix.MADV_POPULATE_WRITE); {
		case err == nil:
			return nil
		case err == unix.EINTR || err == unix.EAGAIN:
			continue
		case err == unix.EINVAL: // an older kernel
			return touch(mem, page)
		case err == unix.EFAULT && page > uint64(os.Getpagesize()):
			return fmt.Errorf("%w: another process took reserved pages of %d KiB (%w)", ErrNoHugePages, page>>10, err)
		case err == unix.ENOMEM:
			return fmt.Errorf("%w (%w)", ErrNoMemory, err)
		default:
			return fmt.Errorf("MADV_POPULATE_WRITE: %w", err)
		}
	}
}

// touch writes to each page without changing its content. If the kernel has no page
// left it sends SIGBUS, which touch returns as an error.
func touch(mem []byte, page uint64) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(interface{ Addr() uintptr })
			if !ok {
				panic(r)
			}
			cause := ErrNoMemory
			if page > uint64(os.Getpagesize()) {
				cause = ErrNoHugePages
			}
			err = fmt.Errorf("%w: no page for address %#x", cause, f.Addr())
		}
	}()
	// Touch every small page, because the kernel may have no transparent huge page.
	for at := 0; at < len(mem); at += os.Getpagesize() {
		atomic.AddUint32((*uint32)(unsafe.Pointer(&mem[at])), 0)
	}
	return nil
}

// absent returns the number of pages of mem that are neither present nor swapped out.
func absent(mem []byte) (missing int, err error) {
	size := os.Getpagesize()
	vec := make([]byte, min(len(mem)/size, 1<<20))
	for at := 0; at < len(mem); at += len(vec) * size {
		part := mem[at:min(at+len(vec)*size, len(mem))]
		_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&part[0])), uintptr(len(part)), uintptr(unsafe.Pointer(&vec[0])))
		if errno != 0 {
			return 0, fmt.Errorf("mincore: %w", errno)
		}
		for i, v := range vec[:len(part)/size] {
			if v&1 == 0 && !swappedOut(part[i*size:]) {
				missing++
			}
		}
	}
	return missing, nil
}

// swappedOut reports whether the first page of mem is in swap.
func swappedOut(mem []byte) bool {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return false
	}
	defer f.Close()
	var entry [8]byte
	at := int64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))) / int64(os.Getpagesize()) * 8
	if _, err := f.ReadAt(entry[:], at); err != nil {
		return false
	}
	const presentOrSwapped = 1<<63 | 1<<62
	return binary.NativeEndian.Uint64(entry[:])&presentOrSwapped != 0
}

// availableMemory returns the number of bytes that this process can allocate: the
// system's available memory plus free swap, or less if its control group allows less.
func availableMemory() uint64 {
	kib, err := meminfo("MemAvailable")
	if err != nil {
		return math.MaxUint64 // unknown, so no limit
	}
	swap, _ := meminfo("SwapFree")
	return min((kib+swap)<<10, groupMemory())
}

// meminfo returns the value of a line of /proc/meminfo, in KiB.
func meminfo(key string) (uint64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if name == key {
			return strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		}
	}
	return 0, errors.New("/proc/meminfo has no line " + key)
}

// groupMemory returns the number of bytes that the limits of this process's control
// groups (version 2) leave.
func groupMemory() uint64 {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return math.MaxUint64
	}
	least := uint64(math.MaxUint64)
	for line := range strings.Lines(string(text)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		const root = "/sys/fs/cgroup"
		for at := filepath.Join(root, path); len(at) > len(root); at = filepath.Dir(at) {
			limit, err := readNumber(filepath.Join(at, "memory.max"))
			if err != nil {
				continue // "max", or no such file
			}
			used, _ := readNumber(filepath.Join(at, "memory.current"))
			least = min(least, limit-min(limit, used))
		}
	}
	return least
}
