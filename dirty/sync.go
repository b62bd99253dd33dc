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

// syncTracker is the tracker of the mode Sync: a thread records each first write of a
// page and then lifts the protection of the page, which wakes the writer.
//
// The thread does not belong to the Go runtime, because a goroutine could deadlock: a
// garbage collection stops the goroutine and waits for a writer inside a copy, and the
// writer waits for the goroutine.
type syncTracker struct {
	log     *Log
	fd      descriptor
	stopFD  int
	absent  bool   // the kernel protects absent pages, too
	mapped  []byte // a stack, a watch, watchedBlocks and their bitmaps
	watch   *watch
	bitmaps [][]uint64 // of the pages that back the blocks
	pagemap *os.File
	lost    *lostPages
}

// watch is the state of the thread. The assembly depends on its layout.
type watch struct {
	polls    [2]unix.PollFd // userfaultfd, stopFD
	fd       int64
	blocks   uint64    // number of watchedBlocks that follow
	protect  [3]uint64 // struct uffdio_writeprotect
	running  uint32    // cleared by the kernel when the thread has ended
	_        uint32
	sequence uint64   // odd while the thread records a page and lifts its protection
	message  [32]byte // struct uffd_msg
	_        [24]byte
}

// watchedBlock is one block's range of addresses, its bitmap and its pages.
type watchedBlock struct{ start, end, bitmap, page, shift uint64 }

func newSync(l *Log) (_ *syncTracker, err error) {
	if !haveWatcher {
		return nil, fmt.Errorf("%w: mode sync: not implemented for %s", ErrUnsupported, runtime.GOARCH)
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
	if err := s.mapWatch(); err != nil {
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

// stack is the size in bytes of the thread's stack. The thread does not use its stack.
const stack = 4096

// mapWatch maps the thread's memory outside of the Go heap and fills it.
func (s *syncTracker) mapWatch() error {
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

// words returns the length in words of a bitmap of mem's pages.
func words(mem []byte, page uint64) uint64 { return (uint64(len(mem))/page + 63) / 64 }

// start starts the thread with all signals blocked, because the runtime's signal
// handler cannot run in the thread.
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
			readPages(mem, s.log.page[i])
		}
		if err := s.fd.protect(spanOf(mem)); err != nil {
			return err
		}
	}
	return s.lost.begin()
}

// readPages makes all pages present, for a kernel that protects only present pages.
func readPages(mem []byte, page uint64) {
	var sum byte
	for at := uint64(0); at < uint64(len(mem)); at += page {
		sum += mem[at]
	}
	runtime.KeepAlive(sum)
}

// collect clears the bits and then protects their pages. A write in between sets no
// bit, but the caller reads the pages after collect and so sees the write.
//
// The thread may have set a bit that collect clears, and lift the protection of the
// page after collect protected the page. Therefore the thread sets the bit again after
// it lifts the protection, and collect waits until the thread has done so. The next
// Collect then reports the page. A lock cannot replace this protocol, because a garbage
// collection can stop the goroutine that holds the lock.
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
	var run span // of consecutive pages
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

// absentPages reports no page: the mode Sync does not find absent pages.
func (s *syncTracker) absentPages(guest.Bitmap) error { return nil }

// close lifts the protection, which wakes all waiting writers, and ends the thread.
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
		return fmt.Errorf("not implemented for %s", runtime.GOARCH)
	}
	return probed(featureWP, true, func(d descriptor, mem []byte) error {
		mem[0] = 1 // make the page present: featureWP protects no absent page
		return d.protect(spanOf(mem))
	})
}
