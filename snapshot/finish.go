package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/store"
)

// Meta is the content of a snapshot besides pages.
type Meta struct {
	// Head and Devices are bytes of the migration's main channel: the header
	// with the configuration, and everything from the first device section on.
	Head, Devices []byte
	// States are the device-state packets of the multifd channels.
	States  []devicestate.Packet
	Machine Machine
}

// Finish completes the snapshot and returns its manifest. The caller must have closed
// all lanes. Finish rewrites page objects of which more than a quarter is superseded,
// writes the index, commits all objects together, and checks that a Reader can open them.
// It writes the manifest last. After an error the caller calls Abort.
func (w *Writer) Finish(ctx context.Context, meta Meta) (*Manifest, error) {
	if w.layout == nil {
		return nil, errors.New("snapshot: no memory (Setup was not called)")
	}
	if w.lanes != 0 {
		return nil, fmt.Errorf("snapshot: %d lanes are still open", w.lanes)
	}
	w.sweep.ended = true
	if err := w.compact(ctx); err != nil {
		return nil, err
	}
	m := &Manifest{
		Format: formatName, Version: newestVersion, Created: time.Now().UTC().Truncate(time.Second),
		Tool: w.opts.Tool, Machine: meta.Machine, Store: w.opts.Store,
	}
	renumber := make([]uint32, len(w.objects))
	for i, o := range w.objects {
		if !o.gone {
			renumber[i] = uint32(len(m.Objects))
			m.Objects = append(m.Objects, o.info)
		}
	}
	// The page objects are made durable meanwhile.
	if err := w.writeIndex(ctx, m, renumber); err != nil {
		return nil, err
	}
	w.tables, w.extents, w.free = nil, nil, nil // the index holds their content
	if err := w.writeMeta(ctx, m, meta); err != nil {
		return nil, err
	}
	if err := w.commitAll(ctx); err != nil {
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
		return nil, fmt.Errorf("snapshot: cannot complete a snapshot that a reader refuses: %w", err)
	}
	manifest, err := w.writeObject(ctx, manifestName, text)
	if err != nil {
		return nil, err
	}
	return m, w.commit(ctx, manifestName, manifest)
}

// commitsAtOnce is the number of objects that are committed at the same time.
const commitsAtOnce = 16

// commitAll commits the remaining page objects, the index and the objects of writeMeta.
// Afterwards the Writer does not read their content, and removes none of them unless
// Finish fails. The flushes to the disk overlap, and share the flush of the directory.
func (w *Writer) commitAll(ctx context.Context) error {
	if err := w.seals.Wait(); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(commitsAtOnce)
	for _, o := range w.written {
		group.Go(func() error { return w.commit(ctx, o.name, o.w) })
	}
	for _, o := range w.objects {
		if !o.gone {
			group.Go(func() error { return w.commit(ctx, o.info.Name, o.w) })
		}
	}
	return group.Wait()
}

// readBack checks the snapshot as a Reader does. It checks m as well as the text,
// because encoding can change names that are not UTF-8.
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
		size := 0 // allocate once: a growing buffer is copied repeatedly
		for i := range meta.States {
			size += devicestate.HeaderLen + len(meta.States[i].Data)
		}
		data := make([]byte, 0, size)
		var err error
		for i := range meta.States {
			if data, err = meta.States[i].Append(data); err != nil {
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
		if _, err := w.writeObject(ctx, o.name, o.data); err != nil {
			return err
		}
		m.Objects = append(m.Objects, ObjectInfo{Name: o.name, Role: o.role, Size: int64(len(o.data)), BLAKE3: digestOf(newestVersion, o.data)})
	}
	return nil
}

// writeObject writes an object that is no page object. The caller commits it.
func (w *Writer) writeObject(ctx context.Context, name string, data []byte) (store.Writer, error) {
	ow, err := w.createWritten(ctx, name)
	if err != nil {
		return nil, err
	}
	if _, err := ow.Write(ctx, data); err != nil {
		return nil, fmt.Errorf("snapshot: writing %s: %w", name, err)
	}
	return ow, nil
}

// createWritten creates an object that is no page object. Abort removes it.
func (w *Writer) createWritten(ctx context.Context, name string) (store.Writer, error) {
	ow, err := w.create(ctx, name)
	if err == nil {
		w.written = append(w.written, writtenObject{name, ow})
	}
	return ow, err
}

// writeIndex writes the index of the extents that hold a current page, and sets the
// totals.
func (w *Writer) writeIndex(ctx context.Context, m *Manifest, renumber []uint32) error {
	live := make([]uint64, len(w.extents)) // first the number of current pages, then the new extent number + 1
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
	ow, err := w.createWritten(ctx, name)
	if err != nil {
		return err
	}
	o := &pageObject{info: ObjectInfo{Name: name, Role: RoleIndex}, w: ow}
	digest, err := w.fillIndex(ctx, m, o, kept, live)
	if err != nil {
		return err
	}
	o.info.BLAKE3 = digest
	m.Totals.IndexBytes = o.info.Size
	m.Objects = append(m.Objects, o.info)
	return nil
}

// extentOrder yields the extents so that those of one object are in the order of their
// offsets. Extent numbers have that order already, unless some numbers were reused.
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

func (w *Writer) fillIndex(ctx context.Context, m *Manifest, o *pageObject, kept []extent, number []uint64) (digest string, err error) {
	x := &indexWriter{w: func(p []byte) error { return o.write(ctx, p) }, dir: make([]segment, 0, w.segments(len(kept)))}
	if err := x.extentTable(kept); err != nil {
		return "", err
	}
	for _, b := range w.layout.Blocks {
		m.Blocks = append(m.Blocks, BlockInfo{Name: b.Name, Length: b.Length, HugePage: b.HugePage})
	}
	var scratch []entry
	err = w.eachChunk(ctx, &scratch, func(block, n int) error {
		for i := range scratch {
			l := scratch[i].loc
			scratch[i].loc = newLocation(number[l.extent()]-1, l.slot())
		}
		m.Blocks[block].Pages += uint64(len(scratch))
		return x.chunk(block, n, scratch)
	})
	if err != nil {
		return "", err
	}
	for i, b := range w.layout.Blocks {
		m.Totals.Pages += m.Blocks[i].Pages
		m.Totals.Zero += w.layout.Pages(b) - m.Blocks[i].Pages
	}
	return x.finish()
}

// segments returns the largest number of segments of the index with the given number of
// extents.
func (w *Writer) segments(extents int) int {
	n := (extents + tableExtents - 1) / tableExtents
	for _, t := range w.tables {
		for i := range t.chunks {
			if t.chunks[i].Load() != nil {
				n++
			}
		}
	}
	return n
}

// eachChunk calls f for each chunk of each block, with the chunk's entries in scratch.
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
