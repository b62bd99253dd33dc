package iaa

import (
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// host is the machine that this process runs on.
type host struct{ start time.Time }

func defaultSystem() System { return &host{start: time.Now()} }

func (h *host) Instructions() Instructions { return hostInstructions() }

func (h *host) Now() time.Duration { return time.Since(h.start) }

func (h *host) OpenQueue(path string) (Node, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &hostNode{fd: fd, path: path}, nil
}

// Map locks the memory if the limit on locked memory allows it: a page that was
// swapped out costs the device a fault. Locking faults every page in, so it is
// for populated memory only.
func (h *host) Map(size int, populate bool) ([]byte, error) {
	flags := unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	if populate {
		flags |= unix.MAP_POPULATE
	}
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return nil, fmt.Errorf("iaa: map %d bytes for devices: %w", size, err)
	}
	if populate {
		_ = unix.Mlock(mem) // an optimisation: failure does not matter
	}
	return mem, nil
}

func (h *host) Unmap(mem []byte) error { return unix.Munmap(mem) }

// Touch writes with an atomic addition of 0, so that it never undoes a concurrent write
// to the same word (by a guest's processor).
func (h *host) Touch(word *uint32, write bool) {
	if write {
		atomic.AddUint32(word, 0)
		return
	}
	atomic.LoadUint32(word)
}

func (h *host) Copy(dst, src []byte) { copy(dst, src) }

// Rounds of Relax that hold the processor, and that only yield it, before Relax begins
// to sleep. A job takes a few microseconds, a page fault of the device up to half a
// millisecond.
const (
	spinRounds  = 64
	yieldRounds = 512
	spinCycles  = 500
	sleepStep   = 20 * time.Microsecond
)

func (h *host) Relax(word *uint32, seen uint32, round int) {
	switch {
	case round < spinRounds && hostInstructions().WAITPKG:
		if word == nil {
			tpause(spinCycles)
			return
		}
		umwait(word, seen, spinCycles)
	case round < spinRounds:
		pause(8)
	case round < yieldRounds:
		runtime.Gosched()
	default:
		time.Sleep(sleepStep)
	}
}

// hostNode is an open work queue device. Its portal is unmapped by Close.
type hostNode struct {
	fd     int
	path   string
	portal hostPortal
}

const portalSize = 0x1000

func (n *hostNode) Map() (Portal, error) {
	mem, err := unix.Mmap(n.fd, 0, portalSize, unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, &os.PathError{Op: "mmap", Path: n.path, Err: err}
	}
	n.portal = mem
	return n.portal, nil
}

func (n *hostNode) Write(descs []Descriptor) (int, error) {
	if len(descs) == 0 {
		return 0, nil
	}
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&descs[0])), len(descs)*DescriptorSize)
	done, err := unix.Write(n.fd, buf)
	if err != nil {
		return 0, &os.PathError{Op: "write", Path: n.path, Err: err}
	}
	return done / DescriptorSize, nil
}

func (n *hostNode) Close() error {
	if n.portal != nil {
		_ = unix.Munmap(n.portal)
		n.portal = nil
	}
	return unix.Close(n.fd)
}

// hostPortal is a mapped portal page, or any other page in a test.
type hostPortal []byte

func (p hostPortal) at(slot int) unsafe.Pointer {
	return unsafe.Pointer(&p[slot%PortalSlots*DescriptorSize])
}

func (p hostPortal) Enqueue(slot int, d *Descriptor) bool {
	return enqcmd(p.at(slot), unsafe.Pointer(d))
}

func (p hostPortal) Store(slot int, d *Descriptor) { movdir64b(p.at(slot), unsafe.Pointer(d)) }
