package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/vmstate"
)

// File is the destination of an export, such as an *os.File. Bytes that were never
// written must read as zero.
type File interface {
	io.WriterAt
	Truncate(size int64) error
}

var _ File = (*os.File)(nil)

// ExportRaw writes the memory of RAM block b to f: byte i of the file is byte i of the
// block. It does not write zero pages, so the file is sparse. It finds the block by name,
// and fails if the snapshot has no block with that name and length.
func (r *Reader) ExportRaw(ctx context.Context, b *guest.Block, f File) error {
	if err := r.calls.begin(); err != nil {
		return err
	}
	defer r.calls.end()
	own := r.layout.Block(b.Name)
	if own == nil || own.Length != b.Length {
		return fmt.Errorf("export: the snapshot has no RAM block %q of %d bytes", b.Name, b.Length)
	}
	for _, size := range []int64{0, int64(b.Length)} { // makes all bytes zero
		if err := f.Truncate(size); err != nil {
			return fmt.Errorf("export: %w", err)
		}
	}
	return r.eachPage(ctx, func(page *guest.Block, offset uint64, data []byte) error {
		if page != own {
			return nil
		}
		_, err := f.WriteAt(data, int64(offset))
		return err
	}, func(other *guest.Block) bool { return other == own })
}

// eachPage calls f with each stored page of the blocks for which want returns true. It
// calls f from several goroutines.
func (r *Reader) eachPage(ctx context.Context, f func(b *guest.Block, offset uint64, data []byte) error, want func(*guest.Block) bool) error {
	src := r.Source(SourceOptions{}).(*source)
	group, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error {
			var b guest.Batch
			for {
				j, err := src.next(ctx)
				if err == io.EOF {
					return nil
				}
				if err != nil {
					return err
				}
				if !want(j.block) {
					continue
				}
				b.Reset()
				b.Block = j.block
				if err := r.fill(ctx, &b, j); err != nil {
					return err
				}
				for i, off := range b.Normal {
					if err := f(b.Block, off, b.Data[i]); err != nil {
						return fmt.Errorf("export: RAM block %q at %#x: %w", b.Block.Name, off, err)
					}
				}
			}
		})
	}
	return group.Wait()
}

const (
	mappedHeaderLen = 28
	mappedAlign     = 1 << 20
)

// mappedBlock is the position of a block in a mapped-ram file.
type mappedBlock struct {
	bitmapAt, words, pagesAt uint64
}

// ExportMappedRAM writes a file that QEMU 9.0 and later loads without vmferry: with the
// capability mapped-ram and the command migrate-incoming "file:PATH". QEMU's
// docs/devel/migration/mapped-ram describes the format. ExportMappedRAM fails if the
// snapshot has device-state packets, which the format cannot hold.
func (r *Reader) ExportMappedRAM(ctx context.Context, f File) error {
	if err := r.calls.begin(); err != nil {
		return err
	}
	defer r.calls.end()
	if states, err := r.States(ctx); err != nil {
		return err
	} else if len(states) > 0 {
		return fmt.Errorf("export: the snapshot has %d device-state packets of multifd channels, which a mapped-ram file cannot hold", len(states))
	}
	head, err := r.Head(ctx)
	if err != nil {
		return err
	}
	if head, err = vmstate.WithCapability(head, "mapped-ram"); err != nil {
		return err
	}
	devices, err := r.Devices(ctx)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	x := &mappedExport{r: r, f: f, blocks: make([]mappedBlock, len(r.layout.Blocks))}
	if err := x.setup(head); err != nil {
		return err
	}
	if err := r.eachPage(ctx, x.page, func(*guest.Block) bool { return true }); err != nil {
		return err
	}
	if err := x.bitmaps(ctx); err != nil {
		return err
	}
	return x.rest(devices)
}

type mappedExport struct {
	r      *Reader
	f      File
	blocks []mappedBlock
	at     uint64 // offset of the next byte of the stream
}

// setup writes the beginning of the stream. The file interleaves the stream with the
// pages: for each block the entry of the block, its bitmap, and its pages at the next
// multiple of 1 MiB.
func (x *mappedExport) setup(head []byte) error {
	var buf bytes.Buffer
	w := vmstate.NewWriter(&buf, x.r.layout, vmstate.SyncPerRound)
	write := func() error {
		if err := w.Flush(); err != nil {
			return err
		}
		_, err := x.f.WriteAt(buf.Bytes(), int64(x.at))
		x.at += uint64(buf.Len())
		buf.Reset()
		return err
	}
	if err := w.Head(head); err != nil {
		return err
	}
	err := w.StartSection(func(b *guest.Block) error {
		if err := write(); err != nil {
			return err
		}
		m := &x.blocks[b.Index]
		m.words = (x.r.layout.Pages(b) + 63) / 64
		m.bitmapAt = x.at + mappedHeaderLen
		m.pagesAt = (m.bitmapAt + 8*m.words + mappedAlign - 1) &^ (mappedAlign - 1)
		be := binary.BigEndian
		line := be.AppendUint32(nil, 1)
		line = be.AppendUint64(line, uint64(x.r.layout.PageSize))
		line = be.AppendUint64(line, m.bitmapAt)
		line = be.AppendUint64(line, m.pagesAt)
		if _, err := x.f.WriteAt(line, int64(x.at)); err != nil {
			return err
		}
		x.at = m.pagesAt + b.Length
		return nil
	})
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if err := w.EndFileSection(); err != nil {
		return err
	}
	return write()
}

func (x *mappedExport) page(b *guest.Block, offset uint64, data []byte) error {
	_, err := x.f.WriteAt(data, int64(x.blocks[b.Index].pagesAt+offset))
	return err
}

// bitmaps writes the bitmaps of pages that are not zero, in the byte order of this host.
func (x *mappedExport) bitmaps(ctx context.Context) error {
	var words [chunkPages / 64]uint64
	var list []entry
	for _, b := range x.r.layout.Blocks {
		m := x.blocks[b.Index]
		for n := range x.r.chunkCount(b) {
			if err := contextErr(ctx); err != nil {
				return err
			}
			c, err := x.r.index.loadChunk(ctx, b.Index, n)
			if err != nil {
				return err
			}
			if c == nil {
				continue // the bitmap is zero where it is not written
			}
			clear(words[:])
			list = c.entries(list[:0])
			for _, e := range list {
				words[e.page/64] |= 1 << (e.page % 64)
			}
			used := min(uint64(len(words)), m.words-uint64(n)*uint64(len(words)))
			out := &offsetWriter{x.f, int64(m.bitmapAt + uint64(n)*chunkPages/8)}
			if err := binary.Write(out, binary.NativeEndian, words[:used]); err != nil {
				return fmt.Errorf("export: %w", err)
			}
		}
	}
	return nil
}

// rest writes the end of the stream after the last block.
func (x *mappedExport) rest(devices []byte) error {
	w := vmstate.NewWriter(&offsetWriter{x.f, int64(x.at)}, x.r.layout, vmstate.SyncPerRound)
	return errors.Join(w.BeginSection(true), w.EndFileSection(), w.Devices(devices))
}

type offsetWriter struct {
	f  io.WriterAt
	at int64
}

func (w *offsetWriter) Write(p []byte) (int, error) {
	n, err := w.f.WriteAt(p, w.at)
	w.at += int64(n)
	return n, err
}
