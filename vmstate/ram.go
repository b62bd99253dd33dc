package vmstate

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/vmferry/vmferry/guest"
)

// readSetup reads the START section's payload: the list of RAM blocks, a
// MULTIFD_FLUSH record in the mode SyncPerRound, and the end-of-section record.
func (r *Reader) readSetup() error {
	record := r.in.u64()
	if r.in.err != nil {
		return r.fail("MEM_SIZE", r.in.err)
	}
	if record&ramFlagMask != ramMemSize {
		return r.fail("MEM_SIZE", fmt.Errorf("%w: first record %#x (want the flag %#x)", ErrMalformed, record, ramMemSize))
	}
	if total := record &^ ramFlagMask; total > r.maxMemory {
		return r.fail("MEM_SIZE", &tooLargeError{total, r.maxMemory})
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
		return r.fail("RAM setup", fmt.Errorf("%w: last record %#x (want %#x)", ErrMalformed, record, ramEOS))
	}
	r.event = Event{Kind: EventSetup, Layout: r.layout, Mode: r.mode}
	r.next = (*Reader).readSyncPoint
	return nil
}

// tooLargeError is the error for a source that claims more memory than MaxMemory. It
// matches ErrTooLarge and, because the claim may be false, ErrMalformed.
type tooLargeError struct{ claimed, most uint64 }

func (e *tooLargeError) Error() string {
	return fmt.Sprintf("%v: the source claims %s, above the limit of %s (if the machine is that large, raise --max-memory)", ErrTooLarge, binarySize(e.claimed), binarySize(e.most))
}

func (e *tooLargeError) Is(target error) bool { return target == ErrTooLarge || target == ErrMalformed }

// binarySize formats a size in the largest binary unit that is not above it.
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
			return nil, fmt.Errorf("%w: RAM block %q of %d bytes, with %d bytes left of the total", ErrMalformed, b.Name, b.Length, total)
		}
		total -= b.Length
		// With postcopy, a block of huge pages is followed by their size. The
		// next byte distinguishes it from a block: a name is not empty, and the
		// first byte of a page size is zero. The FLUSH or EOS record after the
		// last block begins with a zero byte too, but has only flag bits.
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

// readHugePage reads a page size if there is one. last is set for the last block.
func (r *Reader) readHugePage(last bool) (uint64, error) {
	size := r.in.peekU64()
	if r.in.err != nil {
		return 0, r.in.err
	}
	if last && size&^uint64(ramFlagMask) == 0 {
		return 0, nil
	}
	if size&(size-1) != 0 || size < guest.MinPageSize || size > 1<<40 {
		return 0, fmt.Errorf("%w: RAM block with page size %#x", ErrMalformed, size)
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
			return r.fail("RAM record", fmt.Errorf("%w: MULTIFD_FLUSH, and the setup has none", ErrMalformed))
		}
		r.event = Event{Kind: EventSync}
		return nil
	case ramZero, ramPage:
		return r.readPage(offset, flags)
	case ramXBZRLE:
		return r.fail("RAM record", &SectionError{ID: ramSection, Reason: "xbzrle pages (turn the capability xbzrle off at the source)"})
	case ramCompress:
		return r.fail("RAM record", &SectionError{ID: ramSection, Reason: "pages of the capability compress (turn it off at the source)"})
	case ramHook:
		return r.fail("RAM record", &SectionError{ID: ramSection, Reason: "RDMA (migrate over tcp or unix)"})
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
			return r.fail("RAM record", fmt.Errorf("%w: unknown RAM block %q", ErrMalformed, name))
		}
	}
	if r.block == nil {
		return r.fail("RAM record", fmt.Errorf("%w: first page without a RAM block", ErrMalformed))
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
