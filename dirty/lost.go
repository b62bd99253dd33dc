package dirty

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/guest"
)

// lostPages finds discarded pages: pages that lost their content without a write. The
// write protection does not report them.
//
// A page of a file (memfd, shared memory, hugetlb) that MADV_REMOVE or a punched hole
// discards reads as zero. Its entry in the page table becomes a marker that is still
// write-protected. A page that was swapped out has the same marker. Therefore
// lostPages compares the pages with a marker with the file: a page is dirty if it is
// a hole now and was not a hole at the previous search.
//
// In the mode Sync lostPages also finds discarded pages of anonymous memory. Discarding
// removes both the entry and the protection, so a page that is neither protected nor
// recorded as written is dirty.
type lostPages struct {
	log     *Log
	fd      descriptor
	pagemap *os.File
	all     bool // mode Sync: find pages without protection as well
	absent  bool // the kernel protects absent pages
	scan    scanner
	pieces  pieces
	blocks  []lostBlock
	mark    sync.Mutex // guards the caller's bitmap, of which two pieces can share a word
}

// lostBlock is the state of lostPages for a block.
type lostBlock struct {
	backed bool     // a file backs the block
	file   *os.File // to search for holes; nil if its file system does not report them
	holes  []uint64 // bitmap of the kernel's small pages: holes at the last search
}

// scanner calls found for each range of pages of a piece that have an entry in the
// page table, in ascending order, with the categories of the entries.
type scanner func(p pieceOf, vec []region, found func(start, end, categories uint64) error) error

func newLostPages(l *Log, fd descriptor, pagemap *os.File, all, absent bool) (*lostPages, error) {
	o := &lostPages{log: l, fd: fd, pagemap: pagemap, all: all, absent: absent, pieces: piecesOf(l), blocks: make([]lostBlock, len(l.mem))}
	backed, err := backedByFiles(l.mem)
	if err != nil {
		return nil, err
	}
	for i := range l.mem {
		b := &o.blocks[i]
		if b.backed = backed[i]; b.backed {
			b.holes = make([]uint64, (spanOf(l.mem[i]).size/uint64(os.Getpagesize())+63)/64)
		}
		if f := l.files[i]; b.backed && f != nil {
			if b.file, err = reopenForHoles(f); err != nil {
				return nil, errors.Join(err, o.close())
			}
		}
	}
	if o.scan = o.scanner(); o.scan == nil {
		// Before Linux 5.13 the kernel does not report which pages are protected.
		o.pieces = pieces{}
	}
	return o, nil
}

// reopenForHoles opens a file again, because a search for holes moves the position of
// the file. It returns nil for a file system that does not report holes, such as
// hugetlbfs.
func reopenForHoles(f *os.File) (*os.File, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return nil, fmt.Errorf("finding the file system of %s: %w", f.Name(), err)
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return nil, nil
	}
	again, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s again to search for holes: %w", f.Name(), err)
	}
	return again, nil
}

// backedByFiles reports for each block whether a part of it is mapped from a file,
// including shared memory.
func backedByFiles(mem [][]byte) ([]bool, error) {
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, fmt.Errorf("reading the mappings of guest memory: %w", err)
	}
	backed := make([]bool, len(mem))
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line) // range, rights, offset, device, inode, name
		if len(fields) < 5 || fields[4] == "0" {
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("reading the mappings of guest memory: /proc/self/maps has the invalid line %q", line)
		}
		for i := range mem {
			if s := spanOf(mem[i]); s.start < end && start < s.start+s.size {
				backed[i] = true
			}
		}
	}
	return backed, nil
}

// begin records the holes that exist now. All memory must be protected.
func (o *lostPages) begin() error { return o.search(nil) }

// collect sets the bits of the pages that were lost since the previous search.
func (o *lostPages) collect(b guest.Bitmap) error { return o.search(b) }

// search searches all pieces for lost pages. With a nil bitmap it only records holes.
func (o *lostPages) search(b guest.Bitmap) error {
	return o.pieces.each(func(p pieceOf, vec []region) error {
		if !o.all && !o.blocks[p.block].backed {
			return nil
		}
		return o.searchPiece(b, p, vec)
	})
}

func (o *lostPages) searchPiece(b guest.Bitmap, p pieceOf, vec []region) error {
	block := &o.blocks[p.block]
	base, page := spanOf(o.log.mem[p.block]).start, uint64(os.Getpagesize())
	var known, holes []uint64 // of the piece, which begins at a word boundary
	if block.backed {
		first := (p.start - base) / page / 64
		known = block.holes[first : first+((p.end-p.start)/page+63)/64]
		holes = make([]uint64, len(known))
	}
	at := p.start // end of the part that is searched
	err := o.scan(p, vec, func(start, end, categories uint64) error {
		if start > at {
			if err := o.protectAndSet(b, p.block, at, start); err != nil {
				return err
			}
		}
		at = end
		switch {
		case categories&isWritten != 0:
			return o.protectAndSet(b, p.block, start, end)
		case categories&isSwapped != 0 && block.backed:
			return o.setNewHoles(b, p, start, end, known, holes)
		}
		return nil
	})
	if err == nil && at < p.end {
		err = o.protectAndSet(b, p.block, at, p.end)
	}
	if err != nil {
		return fmt.Errorf("searching for discarded pages of RAM block %q: %w", o.log.layout.Blocks[p.block].Name, err)
	}
	copy(known, holes)
	return nil
}

// protectAndSet protects pages that lost their protection, and sets their bits. In the
// mode Async it does nothing, because the next Collect reports such pages.
func (o *lostPages) protectAndSet(b guest.Bitmap, block int, start, end uint64) error {
	if !o.all || b == nil {
		return nil
	}
	if !o.absent {
		base := spanOf(o.log.mem[block]).start
		readPages(o.log.mem[block][start-base:end-base], o.log.page[block])
	}
	if err := o.fd.protect(span{start, end - start}); err != nil {
		return err
	}
	o.set(b, block, start, end)
	return nil
}

// setNewHoles sets the bits of those pages of a range that have become holes. The pages
// of the range have a marker: they are protected, and the page table has no memory for
// them.
func (o *lostPages) setNewHoles(b guest.Bitmap, p pieceOf, start, end uint64, known, holes []uint64) error {
	page := uint64(os.Getpagesize())
	bit := func(words []uint64, at uint64) bool {
		n := (at - p.start) / page
		return words[n/64]&(1<<(n%64)) != 0
	}
	for at := start; at < end; {
		from, was := at, bit(known, at)
		for at < end && bit(known, at) == was {
			at += page
		}
		if was {
			guest.Bitmap{holes}.SetRange(0, (from-p.start)/page, (at-p.start)/page)
			continue
		}
		err := o.holesIn(b == nil, p.block, from, at, func(from, to uint64) {
			guest.Bitmap{holes}.SetRange(0, (from-p.start)/page, (to-p.start)/page)
			if b != nil {
				o.set(b, p.block, from, to)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// holesIn calls found for the holes of a block's file in [start, end). If the file
// system does not report holes, holesIn treats the whole range as a hole. At the
// beginning it does so only for a block without hidden pages: a page that is recorded
// as a hole at the beginning is never reported later.
func (o *lostPages) holesIn(begin bool, block int, start, end uint64, found func(start, end uint64)) error {
	f, base := o.blocks[block].file, spanOf(o.log.mem[block]).start
	if f == nil {
		if !begin || o.hasNoHiddenPages(block) {
			found(start, end)
		}
		return nil
	}
	for at := start; at < end; {
		hole, err := unix.Seek(int(f.Fd()), int64(at-base), unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("SEEK_HOLE: %w", err)
		}
		from := base + uint64(hole)
		if from >= end {
			return nil
		}
		to := end
		data, err := unix.Seek(int(f.Fd()), hole, unix.SEEK_DATA)
		if err == nil {
			to = min(end, base+uint64(data))
		} else if err != unix.ENXIO { // no data up to the end
			return fmt.Errorf("SEEK_DATA: %w", err)
		}
		if to > from {
			found(from, to)
		}
		at = max(to, at+uint64(os.Getpagesize()))
	}
	return nil
}

// hasNoHiddenPages reports whether every page of a block that the page table lacks is
// empty: the memory is private to this process, or the file has no page yet.
func (o *lostPages) hasNoHiddenPages(block int) bool {
	if o.log.zero[block] {
		return true
	}
	var stat unix.Stat_t
	f := o.log.files[block]
	return f != nil && unix.Fstat(int(f.Fd()), &stat) == nil && stat.Blocks == 0
}

func (o *lostPages) set(b guest.Bitmap, block int, start, end uint64) {
	base := spanOf(o.log.mem[block]).start
	o.mark.Lock()
	o.log.mark(b, block, start-base, end-base)
	o.mark.Unlock()
}

func (o *lostPages) close() error {
	var errs []error
	for i := range o.blocks {
		if f := o.blocks[i].file; f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// scanner returns a scanner of the page table that the kernel supports, or nil if the
// kernel does not report the protection of pages.
func (o *lostPages) scanner() scanner {
	switch entry, err := o.tryEntry(); {
	case o.tryScan() == nil:
		return o.scanIoctl
	case err == nil && entry&entryProtected != 0:
		return o.scanEntries
	}
	return nil
}

// tryScan calls PAGEMAP_SCAN for the first page.
func (o *lostPages) tryScan() error {
	s := spanOf(o.log.mem[0])
	p := pieceOf{0, s.start, s.start + uint64(os.Getpagesize())}
	return o.scanIoctl(p, make([]region, 1), func(uint64, uint64, uint64) error { return nil })
}

// tryEntry reads the pagemap entry of a protected page.
func (o *lostPages) tryEntry() (entry uint64, err error) {
	err = protectedPage(o.fd, func(s span) error {
		entry, err = readEntry(o.pagemap, s.start)
		return err
	})
	return entry, err
}

// scanIoctl is the scanner that uses PAGEMAP_SCAN (Linux 6.7). Without o.all it finds
// only markers and swapped-out pages.
func (o *lostPages) scanIoctl(p pieceOf, vec []region, found func(start, end, categories uint64) error) error {
	arg := scanArg{
		size: uint64(unsafe.Sizeof(scanArg{})), start: p.start, end: p.end,
		vec: uint64(uintptr(unsafe.Pointer(&vec[0]))), vecLen: uint64(len(vec)),
		any: isPresent | isSwapped, give: isPresent | isSwapped | isWritten,
	}
	if !o.all {
		arg.any, arg.all, arg.inverted, arg.give = 0, isSwapped|isWritten, isWritten, isSwapped
	}
	for arg.start < arg.end {
		n, err := pagemapScan(o.pagemap, &arg)
		if err != nil {
			return err
		}
		for _, r := range vec[:n] {
			if err := found(r.start, r.end, r.categories); err != nil {
				return err
			}
		}
		arg.start = arg.walkEnd
	}
	runtime.KeepAlive(vec)
	return nil
}

// scanEntries is the scanner for older kernels. It reads the entry of every page.
func (o *lostPages) scanEntries(p pieceOf, _ []region, found func(start, end, categories uint64) error) error {
	page := uint64(os.Getpagesize())
	raw := make([]byte, entryBytes*min(8192, (p.end-p.start)/page))
	run, categories := span{p.start, 0}, uint64(0)
	emit := func() error {
		if run.size == 0 || categories == 0 {
			return nil
		}
		return found(run.start, run.start+run.size, categories)
	}
	for at := p.start; at < p.end; {
		n := min(uint64(len(raw)), (p.end-at)/page*entryBytes)
		if _, err := o.pagemap.ReadAt(raw[:n], pagemapOffset(at)); err != nil {
			return err
		}
		for i := uint64(0); i < n; i, at = i+entryBytes, at+page {
			c := categoriesOf(binary.NativeEndian.Uint64(raw[i:]))
			if c != categories {
				if err := emit(); err != nil {
					return err
				}
				run, categories = span{at, 0}, c
			}
			run.size += page
		}
	}
	return emit()
}

// categoriesOf returns the categories that PAGEMAP_SCAN reports for an entry.
func categoriesOf(entry uint64) (c uint64) {
	switch {
	case entry&entryPresent != 0:
		c = isPresent
	case entry&entrySwapped != 0:
		c = isSwapped
	default:
		return 0
	}
	if entry&entryProtected == 0 {
		c |= isWritten
	}
	return c
}
