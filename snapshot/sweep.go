package snapshot

import (
	"context"
	"sync"
)

// sweep is the state of the last sweep, which removes page objects without a current
// page. Each round sends the pages that are written often, so rounds supersede whole
// objects.
type sweep struct {
	running sync.Mutex // held by the lane that sweeps; other lanes continue
	written int64      // bytes of pages written before the last sweep
	stored  int64      // bytes of objects after the last sweep
	ended   bool       // Finish was called, which moves pages itself
}

// sweepIfDue sweeps when the lanes have written as many bytes as the last sweep left, so
// that the search of the table costs little compared with the writes. It sweeps earlier
// when the snapshot is close to Options.MaxSize. Close to it all lanes wait for the
// sweep.
func (w *Writer) sweepIfDue(ctx context.Context) error {
	limit := w.opts.MaxSize
	if limit > 0 && w.stored.Load() > limit/4*3 {
		w.sweep.running.Lock()
	} else if !w.sweep.running.TryLock() {
		return nil
	}
	defer w.sweep.running.Unlock()
	if w.sweep.ended {
		return nil
	}
	since := w.bytes.Load() - w.sweep.written
	due := since >= max(w.sweep.stored, 8*w.opts.ObjectSize)
	if limit > 0 && w.stored.Load() > limit/2 && since >= limit/16 {
		due = true
	}
	if !due {
		return nil
	}
	w.sweep.written = w.bytes.Load()
	err := w.removeSuperseded(ctx)
	w.sweep.stored = w.stored.Load()
	return err
}

// removeSuperseded removes the sealed objects without a current page. Lanes may continue,
// because they never put a location of a sealed extent into the table again: an extent
// that is not in the table stays out of it.
func (w *Writer) removeSuperseded(ctx context.Context) error {
	w.mu.Lock()
	var sealed []*pageObject
	for _, o := range w.objects {
		if o.sealed && !o.gone {
			sealed = append(sealed, o)
		}
	}
	extents := len(w.extents)
	w.mu.Unlock()
	if len(sealed) == 0 {
		return nil
	}
	used := w.usedObjects(w.liveExtents(extents))
	removed := false
	for _, o := range sealed {
		if used[o.index] {
			continue
		}
		if <-o.done; !o.sealOK {
			continue // Finish returns the error
		}
		if err := w.remove(ctx, o); err != nil {
			return err
		}
		removed = true
	}
	if removed {
		w.freeExtents()
	}
	return nil
}

// liveExtents returns a bitmap of the first n extents, in which the bit of each extent
// with a current page is set.
func (w *Writer) liveExtents(n int) []uint64 {
	live := make([]uint64, (n+63)/64)
	var scratch []entry
	for _, t := range w.tables {
		for chunk := range t.chunks {
			scratch = t.entries(scratch[:0], chunk)
			for _, e := range scratch {
				if i := e.loc.extent(); i/64 < uint64(len(live)) {
					live[i/64] |= 1 << (i % 64)
				}
			}
		}
	}
	return live
}

// usedObjects reports for each object whether it has a live extent, or an extent that is
// newer than the bitmap.
func (w *Writer) usedObjects(live []uint64) []bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	used := make([]bool, len(w.objects))
	for i, e := range w.extents {
		if e.count > 0 && (i/64 >= len(live) || live[i/64]&(1<<(i%64)) != 0) {
			used[e.object] = true
		}
	}
	return used
}

// freeExtents frees the numbers of the extents of removed objects for reuse. The table
// holds none of these numbers.
func (w *Writer) freeExtents() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, e := range w.extents {
		if e.count > 0 && w.objects[e.object].gone {
			w.extents[i] = extent{}
			w.free = append(w.free, uint64(i))
		}
	}
}
