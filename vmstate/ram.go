package vmstate

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/vmferry/vmferry/guest"
)

// readSetup reads the START section's payload: the list of blocks, then a
// flush where the sync mode is per round, then the end.
func (r *Reader) readSetup() error {
	record := r.in.u64()
	if r.in.err != nil {
		return r.fail("MEM_SIZE", r.in.err)
	}
	if record&ramFlagMask != ramMemSize {
		return r.fail("MEM_SIZE", fmt.Errorf("%w: record %#x begins the setup (want the flag %#x)", ErrMalformed, record, ramMemSize))
	}
	if total := record &^ ramFlagMask; total > r.maxMemory {
		return r.fail("MEM_SIZE", &tooLarge{total, r.maxMemory})
	}
	blocks, err := r.readBlocks(record &^ ramFlagMask)
	if err != nil {
		return r.fail("MEM_SIZE", err)
	}
	if r.layout, err = guest.NewLayout(r.config.PageSize(), blocks); err != nil {
		return r.fail("MEM_SIZE", fmt.Errorf("%w: %w", ErrMalformed, err))
	}
	record = r.in.u64()
	if r.in.err == nil && record == ramFlush {
		r.mode = SyncPerRound
		record = r.in.u64()
	} else {
		r.mode = SyncPerSection
	}
	if r.in.err != nil {
		return r.fail("RAM setup", r.in.err)
	}
	if record != ramEOS {
		return r.fail("RAM setup", fmt.Errorf("%w: record %#x ends the setup (want %#x)", ErrMalformed, record, ramEOS))
	}
	r.event = Event{Kind: EventSetup, Layout: r.layout, Mode: r.mode}
	r.next = (*Reader).readSyncPoint
	return nil
}

// tooLarge says that the source claims more memory than this side takes. It wraps
// ErrTooLarge and, because what is claimed need not be true, ErrMalformed.
type tooLarge struct{ claimed, most uint64 }

func (e *tooLarge) Error() string {
	return fmt.Sprintf("%v: the source claims %s, which takes the machine over the bound of %s (if the machine is that large, raise --max-memory)", ErrTooLarge, binarySize(e.claimed), binarySize(e.most))
}

func (e *tooLarge) Is(target error) bool { return target == ErrTooLarge || target == ErrMalformed }

// binarySize gives a size in the largest unit of which it has a whole one.
func binarySize(n uint64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d bytes", n)
	}
	u := (bits.Len64(n) - 1) / 10
	text := strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/float64(uint64(1)<<(10*u))), ".0")
	return fmt.Sprintf("%s %ciB (%d bytes)", text, units[u-1], n)
}

// readBlocks reads blocks until their lengths add up to total.
func (r *Reader) readBlocks(total uint64) ([]guest.Block, error) {
	var blocks []guest.Block
	for total > 0 {
		if len(blocks) == guest.MaxBlocks {
			return nil, fmt.Errorf("%w: more than %d RAM blocks", ErrMalformed, guest.MaxBlocks)
		}
		b := guest.Block{Name: r.in.name(), Length: r.in.u64()}
		if r.in.err != nil {
			return nil, r.in.err
		}
		if b.Length > total || b.Length == 0 {
			return nil, fmt.Errorf("%w: RAM block %q has %d bytes, but %d are left of the total", ErrMalformed, b.Name, b.Length, total)
		}
		total -= b.Length
		// With postcopy a block of huge pages names their size. A block's
		// name is never empty and a page size has a zero in its first byte,
		// so the byte that follows tells the two apart; the FLUSH or EOS
		// after the last block begins with a zero too, but is a flag.
		if r.in.peek() == 0 && r.in.err == nil {
			size, err := r.readHugePage(total == 0)
			if err != nil {
				return nil, err
			}
			b.HugePage = size
		}
		if r.in.err != nil {
			return nil, r.in.err
		}
		blocks = append(blocks, b)
	}
	return blocks, nil
}

// readHugePage reads a page size if one is there.
func (r *Reader) readHugePage(last bool) (uint64, error) {
	size := r.in.peekU64()
	if r.in.err != nil {
		return 0, r.in.err
	}
	if last && size&^uint64(ramFlagMask) == 0 {
		return 0, nil
	}
	if size&(size-1) != 0 || size < guest.MinPageSize || size > 1<<40 {
		return 0, fmt.Errorf("%w: page size %#x of a RAM block", ErrMalformed, size)
	}
	r.in.u64()
	return size, nil
}

// readRecord reads one record of a section.
func (r *Reader) readRecord() error {
	record := r.in.u64()
	if r.in.err != nil {
		return r.fail("RAM record", r.in.err)
	}
	offset, flags := record&^ramFlagMask, record&ramFlagMask
	switch flags &^ ramContinue {
	case ramEOS:
		r.next = (*Reader).readFooter
		if r.mode == SyncPerSection {
			r.next = (*Reader).readSyncPoint
		}
		return nil
	case ramFlush:
		if r.mode == SyncPerSection {
			return r.fail("RAM record", fmt.Errorf("%w: a MULTIFD_FLUSH, though the setup had none", ErrMalformed))
		}
		r.event = Event{Kind: EventSync}
		return nil
	case ramZero, ramPage:
		return r.readPage(offset, flags)
	case ramXBZRLE:
		return r.fail("RAM record", &SectionError{ID: ramSection, Reason: "xbzrle pages; turn the xbzrle capability off at the source"})
	case ramCompress:
		return r.fail("RAM record", &SectionError{ID: ramSection, Reason: "pages of the old compress capability; turn it off at the source"})
	case ramHook:
		return r.fail("RAM record", &SectionError{ID: ramSection, Reason: "RDMA; migrate over tcp or unix"})
	}
	return r.fail("RAM record", fmt.Errorf("%w: flags %#x", ErrMalformed, flags))
}

func (r *Reader) readPage(offset, flags uint64) error {
	if flags&ramContinue == 0 {
		name := r.in.next(int(r.in.byte()))
		if r.in.err != nil {
			return r.fail("RAM record", r.in.err)
		}
		if r.block = r.layout.Lookup(name); r.block == nil {
			return r.fail("RAM record", fmt.Errorf("%w: no RAM block is called %q", ErrMalformed, name))
		}
	}
	if r.block == nil {
		return r.fail("RAM record", fmt.Errorf("%w: the first page names no RAM block", ErrMalformed))
	}
	if err := r.layout.CheckOffset(r.block, offset); err != nil {
		return r.fail("RAM record", fmt.Errorf("%w: %w", ErrMalformed, err))
	}
	if flags&ramZero != 0 {
		fill := r.in.byte()
		if r.in.err != nil {
			return r.fail("RAM record", r.in.err)
		}
		if fill == 0 {
			r.event = Event{Kind: EventZero, Block: r.block, Offset: offset}
			return nil
		}
		for i := range r.page {
			r.page[i] = fill
		}
	} else {
		r.in.fill(r.page)
		if r.in.err != nil {
			return r.fail("RAM page", r.in.err)
		}
	}
	r.event = Event{Kind: EventPage, Block: r.block, Offset: offset, Data: r.page}
	return nil
}
