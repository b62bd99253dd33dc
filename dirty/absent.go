package dirty

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/guest"
)

// Bits of an entry of /proc/self/pagemap. The format is in Linux's
// Documentation/admin-guide/mm/pagemap.rst.
const (
	entryBytes   = 8
	entryPresent = 1 << 63
	entrySwapped = 1 << 62
	// entryProtected is set if userfaultfd write-protects the page (Linux 5.13).
	entryProtected = 1 << 57
	// entryFlags are the flags that do not say where the page is: soft-dirty
	// and exclusively mapped.
	entryFlags = 1<<55 | 1<<56
)

// absentEntry returns the kernel's entry of a page that is protected and was never
// present, without entryFlags. It looks like the entry of a page that was swapped
// out, but with no swap location. The result is 0, which no protected page has, if
// the kernel does not distinguish such pages.
func absentEntry(d descriptor, pagemap *os.File) uint64 {
	var e uint64
	err := protectedPage(d, func(s span) (err error) {
		e, err = readEntry(pagemap, s.start)
		return err
	})
	if err != nil {
		return 0
	}
	e &^= entryFlags
	if e&entryPresent != 0 || e&entrySwapped == 0 {
		return 0
	}
	return e
}

// protectedPage maps a page, protects it before it is present, and calls do with it.
func protectedPage(d descriptor, do func(span) error) error {
	mem, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer unix.Munmap(mem)
	if err := d.register(mem); err != nil {
		return err
	}
	defer d.unregister(mem)
	if err := d.protect(spanOf(mem)); err != nil {
		return err
	}
	return do(spanOf(mem))
}

func readEntry(pagemap *os.File, address uint64) (uint64, error) {
	var entry [entryBytes]byte
	_, err := pagemap.ReadAt(entry[:], pagemapOffset(address))
	return binary.NativeEndian.Uint64(entry[:]), err
}

func pagemapOffset(address uint64) int64 {
	return int64(address / uint64(os.Getpagesize()) * entryBytes)
}

// entryNone is the kernel's entry of a page of anonymous memory that was never
// present and is not protected.
const entryNone = 0

// absentPages sets the bits of the absent pages.
func (a *async) absentPages(b guest.Bitmap) error {
	want := absentEntry(a.fd, a.pagemap)
	if want == 0 {
		return nil
	}
	look := absence{a.pagemap, a.log.layout, want}
	return a.each(func(p pieceOf, _ []region) error {
		if !a.log.zero[p.block] || a.log.page[p.block] != uint64(os.Getpagesize()) {
			return nil
		}
		return look.eachRun(p, spanOf(a.log.mem[p.block]).start, func(from, to uint64) {
			a.mark.Lock()
			b.SetRange(p.block, from, to)
			a.mark.Unlock()
		})
	})
}

// absence finds pages whose entry is want, apart from entryFlags.
type absence struct {
	pagemap *os.File
	layout  *guest.Layout
	want    uint64
}

// eachRun calls found for each run of absent target pages of a piece of a block that
// begins at address base. A target page that is larger than a page of the kernel is
// absent if all of it is absent.
func (a absence) eachRun(p pieceOf, base uint64, found func(from, to uint64)) error {
	page, size := uint64(os.Getpagesize()), uint64(a.layout.PageSize)
	entries := make([]uint64, min(8192, (p.end-p.start)/page))
	first, end := uint64(0), uint64(0) // of a run of absent bytes
	flush := func() {
		if from, to := (first+size-1)/size, end/size; from < to {
			found(from, to)
		}
	}
	for at := p.start; at < p.end; at += uint64(len(entries)) * page {
		n := min(uint64(len(entries)), (p.end-at)/page)
		raw := unsafe.Slice((*byte)(unsafe.Pointer(&entries[0])), n*entryBytes)
		if _, err := a.pagemap.ReadAt(raw, pagemapOffset(at)); err != nil {
			return fmt.Errorf("finding absent pages of RAM block %q: %w", a.layout.Blocks[p.block].Name, err)
		}
		for i, e := range entries[:n] {
			offset := at - base + uint64(i)*page
			if e&^entryFlags != a.want {
				continue
			}
			if offset != end {
				flush()
				first = offset
			}
			end = offset + page
		}
	}
	flush()
	return nil
}
