package dirty

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/guest"
)

// syncTracker notes each write that waits for it, and lets it go on.
//
// The thread that does so is none of the Go runtime's. A goroutine would have
// to stand still during a garbage collection, which waits for a writer in the
// middle of a copy, which waits for the goroutine.
type syncTracker struct {
	log     *Log
	fd      descriptor
	stopFD  int
	absent  bool   // the kernel protects pages that are not there, too
	mapped  []byte // a stack, a watch, watchedBlocks, their bitmaps
	watch   *watch
	bitmaps [][]uint64 // of the pages that back the blocks
	pagemap *os.File
	lost    *lostPages
}

// watch is what the thread works on. The assembly knows its layout.
type watch struct {
	polls    [2]unix.PollFd // userfaultfd, stop
	fd       int64
	blocks   uint64    // how many watchedBlocks follow
	protect  [3]uint64 // struct uffdio_writeprotect
	running  uint32    // cleared by the kernel when the thread has ended
	_        uint32
	sequence uint64   // odd while a page is being let go
	message  [32]byte // struct uffd_msg
	_        [24]byte
}

// watchedBlock is one block's range of addresses, its bitmap and its pages.
type watchedBlock struct{ start, end, bitmap, page, shift uint64 }

func newSync(l *Log) (_ *syncTracker, err error) {
	if !haveWatcher {
		return nil, fmt.Errorf("%w: synchronously: not written for %s", ErrUnsupported, runtime.GOARCH)
	}
	s := &syncTracker{log: l, absent: true}
	if s.fd, err = openDescriptor(featureWP|featureWPHugeShared|featureWPAbsent, true); err != nil {
		s.absent = false
		if s.fd, err = openDescriptor(featureWP, true); err != nil {
			return nil, err
		}
	}
	if s.stopFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		s.fd.close()
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err := s.lay(); err != nil {
		return nil, errors.Join(err, s.free())
	}
	if err := s.fd.registerAll(l); err != nil {
		return nil, errors.Join(err, s.free())
	}
	if s.pagemap, err = os.Open("/proc/self/pagemap"); err == nil {
		s.lost, err = newLostPages(l, s.fd, s.pagemap, true, s.absent)
	}
	if err == nil {
		err = s.start()
	}
	if err != nil {
		return nil, errors.Join(err, s.fd.unregisterAll(l), s.free())
	}
	return s, nil
}

// stack is how much the thread has, which uses none.
const stack = 4096

// lay makes the thread's memory, outside of the Go heap.
func (s *syncTracker) lay() error {
	size := stack + unsafe.Sizeof(watch{}) + uintptr(len(s.log.mem))*unsafe.Sizeof(watchedBlock{})
	for i, mem := range s.log.mem {
		size += 8 * uintptr(words(mem, s.log.page[i]))
	}
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("mapping %d bytes for dirty bitmaps: %w", size, err)
	}
	s.mapped = mem
	s.watch = (*watch)(unsafe.Pointer(&mem[stack]))
	s.watch.polls = [2]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}, {Fd: int32(s.stopFD), Events: unix.POLLIN}}
	s.watch.fd, s.watch.blocks = int64(s.fd), uint64(len(s.log.mem))
	at := stack + unsafe.Sizeof(watch{})
	table := unsafe.Slice((*watchedBlock)(unsafe.Pointer(&mem[at])), len(s.log.mem))
	at += uintptr(len(table)) * unsafe.Sizeof(watchedBlock{})
	for i, block := range s.log.mem {
		page, n := s.log.page[i], words(block, s.log.page[i])
		r, bitmap := spanOf(block), unsafe.Pointer(&mem[at])
		table[i] = watchedBlock{
			start: r.start, end: r.start + r.size, bitmap: uint64(uintptr(bitmap)),
			page: page, shift: uint64(bits.TrailingZeros64(page)),
		}
		s.bitmaps = append(s.bitmaps, unsafe.Slice((*uint64)(bitmap), n))
		at += uintptr(8 * n)
	}
	return nil
}

// words is how long a bitmap of mem's pages is.
func words(mem []byte, page uint64) uint64 { return (uint64(len(mem))/page + 63) / 64 }

// start starts the thread, with all signals blocked: it has nothing that the
// runtime's handler could run on.
func (s *syncTracker) start() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return fmt.Errorf("blocking signals: %w", err)
	}
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	s.watch.running = 1
	if errno := startWatcher(s.watch); errno != 0 {
		s.watch.running = 0
		return fmt.Errorf("starting a thread: %w", unix.Errno(errno))
	}
	return nil
}

func (s *syncTracker) protect() error {
	for i, mem := range s.log.mem {
		if !s.absent {
			read(mem, s.log.page[i])
		}
		if err := s.fd.protect(spanOf(mem)); err != nil {
			return err
		}
	}
	return s.lost.begin()
}

// read makes all pages present, for a kernel that protects no others.
func read(mem []byte, page uint64) {
	var sum byte
	for at := uint64(0); at < uint64(len(mem)); at += page {
		sum += mem[at]
	}
	runtime.KeepAlive(sum)
}

// collect takes the bits and then protects their pages: a write in between is
// not noted, but is there for whoever reads the pages afterwards.
//
// The thread may have noted a page whose bit is taken here, and let the page go
// after it was protected here. So it notes each page again once it has let it
// go, and collect ends when it has: the page is in the next Collect. A lock
// would not do. Whoever holds it can be stopped for a garbage collection.
func (s *syncTracker) collect(b guest.Bitmap) error {
	for i := range s.bitmaps {
		if err := s.collectBlock(b, i); err != nil {
			return err
		}
	}
	for at := atomic.LoadUint64(&s.watch.sequence); at%2 == 1; {
		if atomic.LoadUint64(&s.watch.sequence) != at {
			break
		}
		runtime.Gosched()
	}
	return s.lost.collect(b)
}

func (s *syncTracker) collectBlock(b guest.Bitmap, block int) error {
	base, size := spanOf(s.log.mem[block]).start, s.log.page[block]
	var run span // of pages that follow one another
	for w := range s.bitmaps[block] {
		if atomic.LoadUint64(&s.bitmaps[block][w]) == 0 {
			continue
		}
		for word := atomic.SwapUint64(&s.bitmaps[block][w], 0); word != 0; word &= word - 1 {
			page := uint64(w*64 + bits.TrailingZeros64(word))
			s.log.mark(b, block, page*size, (page+1)*size)
			if at := base + page*size; at == run.start+run.size {
				run.size += size
			} else if err := s.protectRun(run); err != nil {
				return err
			} else {
				run = span{at, size}
			}
		}
	}
	return s.protectRun(run)
}

func (s *syncTracker) protectRun(run span) error {
	if run.size == 0 {
		return nil
	}
	return s.fd.protect(run)
}

// absentPages knows of none: the mode has no scan for it.
func (s *syncTracker) absentPages(guest.Bitmap) error { return nil }

// close lifts the protection, which lets everybody who waits go on, and ends
// the thread.
func (s *syncTracker) close() error {
	err := s.fd.unregisterAll(s.log)
	one := [8]byte{1}
	if _, werr := unix.Write(s.stopFD, one[:]); werr != nil {
		return errors.Join(err, fmt.Errorf("ending the thread: %w", werr))
	}
	for atomic.LoadUint32(&s.watch.running) != 0 {
		time.Sleep(50 * time.Microsecond)
	}
	return errors.Join(err, s.free())
}

func (s *syncTracker) free() error {
	err := errors.Join(s.fd.close(), unix.Close(s.stopFD))
	if s.pagemap != nil {
		err = errors.Join(err, s.pagemap.Close())
	}
	if s.lost != nil {
		err = errors.Join(err, s.lost.close())
	}
	if s.mapped != nil {
		err = errors.Join(err, unix.Munmap(s.mapped))
	}
	return err
}

func probeSync() error {
	if !haveWatcher {
		return fmt.Errorf("not written for %s", runtime.GOARCH)
	}
	return probed(featureWP, true, func(d descriptor, mem []byte) error {
		mem[0] = 1 // what is not there is not protected in this mode
		return d.protect(spanOf(mem))
	})
}
