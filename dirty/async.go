package dirty

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/guest"
)

// featuresAsync are what the mode needs: writes that do not wait, also to pages
// that are not there yet, and to memory that is shared or of huge pages.
const featuresAsync = featureWP | featureWPHugeShared | featureWPAbsent | featureWPAsync

// scanArg and region are struct pm_scan_arg and struct page_region.
type scanArg struct {
	size, flags, start, end, walkEnd, vec, vecLen, maxPages uint64
	inverted, all, any, give                                uint64
}

type region struct{ start, end, categories uint64 }

const (
	scanProtect  = 1 << 0 // write-protect what is found
	scanAllAsync = 1 << 1 // fail on memory that is not in the mode
	isWritten    = 1 << 1
)

// piece is how much memory one worker scans before it takes the next.
const piece = 256 << 20

// regions is how many ranges one call of the scan can give.
const regions = 1024

// async has the kernel note writes in its page tables.
type async struct {
	log     *Log
	fd      descriptor
	pagemap *os.File
	pieces  []pieceOf
	vecs    [][]region // one a worker
	mark    sync.Mutex // two pieces can share a word of a bitmap
}

type pieceOf struct {
	block      int
	start, end uint64 // addresses
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
	for i, mem := range l.mem {
		s := spanOf(mem)
		for at := s.start; at < s.start+s.size; at += piece {
			a.pieces = append(a.pieces, pieceOf{i, at, min(at+piece, s.start+s.size)})
		}
	}
	for range min(l.workers, len(a.pieces)) {
		a.vecs = append(a.vecs, make([]region, regions))
	}
	return a, nil
}

// each has the workers go through all pieces.
func (a *async) each(do func(p pieceOf, vec []region) error) error {
	if len(a.pieces) == 1 {
		return do(a.pieces[0], a.vecs[0])
	}
	var next atomic.Int64
	var group errgroup.Group
	for _, vec := range a.vecs {
		group.Go(func() error {
			for {
				n := int(next.Add(1)) - 1
				if n >= len(a.pieces) {
					return nil
				}
				if err := do(a.pieces[n], vec); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

func (a *async) protect() error {
	return a.each(func(p pieceOf, _ []region) error { return a.fd.protect(span{p.start, p.end - p.start}) })
}

func (a *async) collect(b guest.Bitmap) error {
	return a.each(func(p pieceOf, vec []region) error { return a.scan(b, p, vec) })
}

// scan finds the written pages of a piece and protects them again, in one step:
// a write is either found or comes to a protected page.
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
	return errors.Join(a.fd.unregisterAll(a.log), a.fd.close(), a.pagemap.Close())
}

// probeAsync does it once with a page.
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
			err = errors.New("PAGEMAP_SCAN misses a write")
		}
		return err
	})
}
