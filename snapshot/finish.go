package snapshot

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/multifd"
)

// Meta is what a snapshot keeps besides pages.
type Meta struct {
	// Head and Devices are the main channel's, byte for byte.
	Head, Devices []byte
	States        []multifd.DeviceState
	Machine       Machine
}

// Finish completes the snapshot: all lanes are closed. It drops what was
// superseded if that is more than a quarter, then commits the objects of pages
// and the index, and last the manifest, when a reader has found that it can open
// what is there. After an error, Abort is to be called.
func (w *Writer) Finish(ctx context.Context, meta Meta) (*Manifest, error) {
	if w.layout == nil {
		return nil, errors.New("snapshot: no memory came")
	}
	if w.lanes != 0 {
		return nil, fmt.Errorf("snapshot: %d lanes are still open", w.lanes)
	}
	w.sweep.over = true
	if err := w.compact(ctx); err != nil {
		return nil, err
	}
	if err := w.seals.Wait(); err != nil {
		return nil, err
	}
	m := &Manifest{
		Format: formatName, Version: formatVersion, Created: time.Now().UTC().Truncate(time.Second),
		Tool: w.opts.Tool, Machine: meta.Machine, Store: w.opts.Store,
	}
	renumber := make([]uint32, len(w.objects))
	for i, o := range w.objects {
		if !o.gone {
			renumber[i] = uint32(len(m.Objects))
			m.Objects = append(m.Objects, o.info)
		}
	}
	if err := w.commitPages(ctx); err != nil {
		return nil, err
	}
	if err := w.writeIndex(ctx, m, renumber); err != nil {
		return nil, err
	}
	w.tables, w.extents, w.free = nil, nil, nil // the index has it all
	if err := w.writeMeta(ctx, m, meta); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	text, err := m.encode()
	if err != nil {
		return nil, err
	}
	if err := w.readBack(ctx, m, text); err != nil {
		return nil, fmt.Errorf("snapshot: refusing to complete what could not be read: %w", err)
	}
	return m, w.writeObject(ctx, manifestName, text)
}

// commitsAtOnce is how many objects of pages are committed at once.
const commitsAtOnce = 16

// commitPages commits the objects of pages that are left. From here on none of
// them is removed, unless Finish fails, and their pages are not read again.
func (w *Writer) commitPages(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(commitsAtOnce)
	for _, o := range w.objects {
		if !o.gone {
			group.Go(func() error { return w.commit(ctx, o.info.Name, o.w) })
		}
	}
	return group.Wait()
}

// readBack looks with a reader's eyes at all that it would refuse. m, where
// nothing was encoded yet, says what a text cannot.
func (w *Writer) readBack(ctx context.Context, m *Manifest, text []byte) error {
	if err := m.check(); err != nil {
		return err
	}
	decoded, err := decodeManifest(text)
	if err != nil {
		return err
	}
	r, err := openWith(ctx, w.bucket, decoded, OpenOptions{})
	if err != nil {
		return err
	}
	_, headErr := r.Head(ctx)
	_, statesErr := r.States(ctx)
	return errors.Join(headErr, statesErr, r.Close())
}

func (w *Writer) writeMeta(ctx context.Context, m *Manifest, meta Meta) error {
	objects := []struct {
		name string
		role Role
		data []byte
	}{{"head", RoleHead, meta.Head}, {"devices", RoleDevices, meta.Devices}}
	if len(meta.States) > 0 {
		size := 0 // beforehand: a buffer that grows is copied again and again
		for i := range meta.States {
			size += multifd.DeviceStateHeader + len(meta.States[i].Data)
		}
		data := make([]byte, 0, size)
		var err error
		for i := range meta.States {
			if data, err = multifd.AppendDeviceState(data, &meta.States[i]); err != nil {
				return err
			}
		}
		objects = append(objects, struct {
			name string
			role Role
			data []byte
		}{"device-states", RoleStates, data})
	}
	for _, o := range objects {
		if err := w.writeObject(ctx, o.name, o.data); err != nil {
			return err
		}
		sum := sha256.Sum256(o.data)
		m.Objects = append(m.Objects, ObjectInfo{o.name, o.role, int64(len(o.data)), hex.EncodeToString(sum[:])})
	}
	return nil
}

func (w *Writer) writeObject(ctx context.Context, name string, data []byte) error {
	ow, err := w.create(ctx, name)
	if err != nil {
		return err
	}
	if _, err := ow.Write(ctx, data); err != nil {
		return errors.Join(fmt.Errorf("snapshot: writing %s: %w", name, err), ow.Abort(context.WithoutCancel(ctx)))
	}
	return w.commit(ctx, name, ow)
}

// writeIndex writes the index with the extents that still hold a page, and
// counts.
func (w *Writer) writeIndex(ctx context.Context, m *Manifest, renumber []uint32) error {
	live := make([]uint64, len(w.extents)) // first pages that count, then the new number + 1
	var scratch []entry
	err := w.eachChunk(ctx, &scratch, func(int, int) error {
		for _, e := range scratch {
			live[e.loc.extent()]++
		}
		return nil
	})
	if err != nil {
		return err
	}
	var kept []extent
	for _, i := range w.extentOrder() {
		e, n := w.extents[i], live[i]
		if n == 0 {
			if e.count > 0 && !w.objects[e.object].gone {
				m.Totals.Superseded += uint64(e.count)
			}
			continue
		}
		m.Totals.Superseded += uint64(e.count) - n
		m.Totals.PageBytes += int64(e.length)
		e.object = renumber[e.object]
		kept = append(kept, e)
		live[i] = uint64(len(kept))
	}
	m.Totals.Extents = uint64(len(kept))

	const name = "index"
	ow, err := w.create(ctx, name)
	if err != nil {
		return err
	}
	o := &pageObject{info: ObjectInfo{Name: name, Role: RoleIndex}, w: ow, sum: sha256.New()}
	if err := w.fillIndex(ctx, m, o, kept, live); err != nil {
		return errors.Join(err, ow.Abort(context.WithoutCancel(ctx)))
	}
	if err := w.commit(ctx, name, ow); err != nil {
		return err
	}
	o.info.SHA256 = hex.EncodeToString(o.sum.Sum(nil))
	m.Totals.IndexBytes = o.info.Size
	m.Objects = append(m.Objects, o.info)
	return nil
}

// extentOrder yields the extents so that those of one object come in the order of
// their offsets. So their numbers do, unless some were used again.
func (w *Writer) extentOrder() iter.Seq2[int, int] {
	if !w.reused {
		return func(yield func(int, int) bool) {
			for i := range w.extents {
				if !yield(i, i) {
					return
				}
			}
		}
	}
	order := make([]int, len(w.extents))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		x, y := &w.extents[a], &w.extents[b]
		return cmp.Or(cmp.Compare(x.object, y.object), cmp.Compare(x.offset, y.offset))
	})
	return slices.All(order)
}

func (w *Writer) fillIndex(ctx context.Context, m *Manifest, o *pageObject, kept []extent, number []uint64) error {
	x := &indexWriter{w: func(p []byte) error { return o.write(ctx, p) }}
	if err := x.extentTable(kept); err != nil {
		return err
	}
	for _, b := range w.layout.Blocks {
		m.Blocks = append(m.Blocks, BlockInfo{Name: b.Name, Length: b.Length, HugePage: b.HugePage})
	}
	var scratch []entry
	err := w.eachChunk(ctx, &scratch, func(block, n int) error {
		for i := range scratch {
			l := scratch[i].loc
			scratch[i].loc = at(number[l.extent()]-1, l.slot())
		}
		m.Blocks[block].Pages += uint64(len(scratch))
		return x.chunk(block, n, scratch)
	})
	if err != nil {
		return err
	}
	for i, b := range w.layout.Blocks {
		m.Totals.Pages += m.Blocks[i].Pages
		m.Totals.Zero += w.layout.Pages(b) - m.Blocks[i].Pages
	}
	return x.finish()
}

// eachChunk fills scratch with each chunk of each block in turn.
func (w *Writer) eachChunk(ctx context.Context, scratch *[]entry, f func(block, n int) error) error {
	for block, t := range w.tables {
		for n := range t.chunks {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			*scratch = t.entries((*scratch)[:0], n)
			if err := f(block, n); err != nil {
				return err
			}
		}
	}
	return nil
}
