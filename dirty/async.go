package dirty

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/guest"
)

// featuresAsync are the userfaultfd features of the mode Async: writers do not wait,
// and the kernel also protects absent pages, shared memory and huge pages.
const featuresAsync = featureWP | featureWPHugeShared | featureWPAbsent | featureWPAsync

// scanArg and region are struct pm_scan_arg and struct page_region of linux/fs.h.
type scanArg struct {
	size, flags, start, end, walkEnd, vec, vecLen, maxPages uint64
	inverted, all, any, give                                uint64
}

type region struct{ start, end, categories uint64 }

const (
	scanProtect  = 1 << 0 // write-protect the pages found
	scanAllAsync = 1 << 1 // fail on memory without asynchronous protection
	isWritten    = 1 << 1
	isPresent    = 1 << 3
	isSwapped    = 1 << 4
)

// async is the tracker of the mode Async: the kernel records writes in its page
// tables.
type async struct {
	log     *Log
	fd      descriptor
	pagemap *os.File
	pieces
	lost *lostPages
	mark sync.Mutex // guards the bitmap, of which two pieces can share a word
}

func newAsync(l *Log) (_ *async, err error) {
	a := &async{log: l, fd: -1}
	if a.fd, err = openDescriptor(featuresAsync, false); err != nil {
		return nil, err
	}
	if a.pagemap, err = os.Open("/proc/self/pagemap"); err != nil {
		a.fd.close()
		return nil, err
	}
	if err := a.fd.registerAll(l); err != nil {
		a.fd.close()
		a.pagemap.Close()
		return nil, err
	}
	a.pieces = piecesOf(l)
	if a.lost, err = newLostPages(l, a.fd, a.pagemap, false, true); err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

func (a *async) protect() error {
	if err := a.each(func(p pieceOf, _ []region) error { return a.fd.protect(span{p.start, p.end - p.start}) }); err != nil {
		return err
	}
	return a.lost.begin()
}

// collect scans for written pages before it looks for discarded ones. A page that is
// discarded in between has a marker, or has lost its protection and is found by the
// next Collect.
func (a *async) collect(b guest.Bitmap) error {
	if err := a.each(func(p pieceOf, vec []region) error { return a.scan(b, p, vec) }); err != nil {
		return err
	}
	return a.lost.collect(b)
}

// scan finds the written pages of a piece and protects them again in one step, so a
// write is either found or hits a protected page.
func (a *async) scan(b guest.Bitmap, p pieceOf, vec []region) error {
	base := spanOf(a.log.mem[p.block]).start
	arg := scanArg{
		size: uint64(unsafe.Sizeof(scanArg{})), flags: scanProtect | scanAllAsync,
		start: p.start, end: p.end, vec: uint64(uintptr(unsafe.Pointer(&vec[0]))), vecLen: uint64(len(vec)),
		all: isWritten, give: isWritten,
	}
	for arg.start < arg.end {
		n, err := pagemapScan(a.pagemap, &arg)
		if err != nil {
			return fmt.Errorf("scanning RAM block %q for written pages: %w", a.log.layout.Blocks[p.block].Name, err)
		}
		if n > 0 {
			a.mark.Lock()
			for _, r := range vec[:n] {
				a.log.mark(b, p.block, r.start-base, r.end-base)
			}
			a.mark.Unlock()
		}
		arg.start = arg.walkEnd
	}
	runtime.KeepAlive(vec)
	return nil
}

func pagemapScan(pagemap *os.File, arg *scanArg) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, pagemap.Fd(), ioctlPagemapScan, uintptr(unsafe.Pointer(arg)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
			continue
		}
		return 0, fmt.Errorf("PAGEMAP_SCAN: %w", errno)
	}
}

func (a *async) close() error {
	err := errors.Join(a.fd.unregisterAll(a.log), a.fd.close(), a.pagemap.Close())
	if a.lost != nil {
		err = errors.Join(err, a.lost.close())
	}
	return err
}

// probeAsync tries the mode Async with one page.
func probeAsync() error {
	return probed(featuresAsync, false, func(d descriptor, mem []byte) error {
		pagemap, err := os.Open("/proc/self/pagemap")
		if err != nil {
			return err
		}
		defer pagemap.Close()
		s := spanOf(mem)
		if err := d.protect(s); err != nil {
			return err
		}
		mem[0] = 1
		vec := make([]region, 1)
		arg := scanArg{
			size: uint64(unsafe.Sizeof(scanArg{})), flags: scanProtect | scanAllAsync, start: s.start, end: s.start + s.size,
			vec: uint64(uintptr(unsafe.Pointer(&vec[0]))), vecLen: 1, all: isWritten, give: isWritten,
		}
		n, err := pagemapScan(pagemap, &arg)
		if errors.Is(err, unix.ENOTTY) {
			return errors.New("this kernel has no PAGEMAP_SCAN (Linux 6.7)")
		}
		if err == nil && n != 1 {
			err = errors.New("PAGEMAP_SCAN of this kernel misses a write")
		}
		return err
	})
}
