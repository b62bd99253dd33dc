package snapshot

import (
	"context"
	"io"
	"sync"

	"github.com/vmferry/vmferry/guest"
)

// SourceOptions configure a source. The zero value yields no zero pages and verifies
// digests.
type SourceOptions struct {
	// Zero reports whether the source also yields the zero pages of a block. Nil
	// yields none. The main memory of a new machine is zero, but its ROMs are
	// not.
	Zero func(*guest.Block) bool
	// SkipDigests makes the source verify only checksums. Checksums do not find
	// data that were changed together with their checksum.
	SkipDigests bool
}

// Source returns a source that yields each page of the snapshot once. Next returns io.EOF
// only if the digests of the index and of all page objects match the manifest. Otherwise
// the last error wraps ErrCorrupt. Several goroutines may call Next.
func (r *Reader) Source(opts SourceOptions) guest.Source {
	return &source{r: r, opts: opts}
}

// source iterates over the chunks of the index in order and yields the pages of one
// extent at a time.
type source struct {
	r    *Reader
	opts SourceOptions

	mu    sync.Mutex
	block int
	chunk uint32 // next chunk of the block, or next segment without zero pages
	jobs  []job
	list  []entry
}

// job describes a batch: pages of one extent, or zero pages.
type job struct {
	block *guest.Block
	chunk uint32
	ext   extent
	run   []entry
	zero  []uint64
}

// batchBuffers are the buffers for filling a batch.
type batchBuffers struct {
	dec     *decoder
	payload []byte
	pages   []byte
}

func (s *source) Layout() *guest.Layout { return s.r.layout }

func (s *source) Next(ctx context.Context, b *guest.Batch) error {
	if err := s.r.calls.begin(); err != nil {
		return err
	}
	defer s.r.calls.end()
	j, err := s.next(ctx)
	if err != nil {
		return err
	}
	b.Reset()
	b.Block = j.block
	if j.run == nil {
		b.Zero = append(b.Zero, j.zero...)
		return nil
	}
	return s.r.fill(ctx, b, j)
}

// next returns the next job. At the end it waits until the digests are verified.
func (s *source) next(ctx context.Context) (job, error) {
	if !s.opts.SkipDigests {
		if err := s.r.digests.start(ctx, s.r); err != nil {
			return job{}, err
		}
	}
	j, err := s.nextJob(ctx)
	if err == io.EOF && !s.opts.SkipDigests {
		if bad := s.r.digests.wait(ctx); bad != nil {
			return job{}, bad
		}
	}
	return j, err
}

func (s *source) nextJob(ctx context.Context) (job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.jobs) == 0 {
		if err := contextErr(ctx); err != nil {
			return job{}, err
		}
		if s.block == len(s.r.layout.Blocks) {
			return job{}, io.EOF
		}
		if err := s.loadNext(ctx, s.r.layout.Blocks[s.block]); err != nil {
			return job{}, err
		}
	}
	j := s.jobs[0]
	s.jobs = s.jobs[1:]
	return j, nil
}

// loadNext adds the jobs of the block's next chunk. Without zero pages it skips chunks
// that the index does not have.
func (s *source) loadNext(ctx context.Context, b *guest.Block) error {
	n, count := s.chunk, s.r.chunkCount(b)
	if !s.zero(b) {
		segments := s.r.index.chunks[b.Index]
		if count = uint32(len(segments)); n < count {
			n = segments[n].first
		}
	}
	if s.chunk == count {
		s.block, s.chunk = s.block+1, 0
		return nil
	}
	s.chunk++
	return s.load(ctx, b, n)
}

// zero reports whether the source yields zero pages of b.
func (s *source) zero(b *guest.Block) bool { return s.opts.Zero != nil && s.opts.Zero(b) }

// load adds the jobs of one chunk.
func (s *source) load(ctx context.Context, b *guest.Block, n uint32) error {
	c, err := s.r.index.loadChunk(ctx, b.Index, n)
	if err != nil {
		return err
	}
	// Jobs of the previous chunk may still use the old list, so make a new one.
	s.list = nil
	if c != nil {
		s.list = c.entries(make([]entry, 0, c.count))
	}
	if s.zero(b) {
		s.addZero(b, n)
	}
	return byExtent(s.list, func(run []entry) error {
		e, err := s.r.extent(ctx, run[0].loc.extent())
		if err != nil {
			return err
		}
		if err := checkRun(b, e, run); err != nil {
			return corrupt(s.r.index.name, "extent %d: %v", run[0].loc.extent(), err)
		}
		s.jobs = append(s.jobs, job{block: b, chunk: n, ext: e, run: run})
		return nil
	})
}

// addZero adds jobs of the chunk's zero pages: those that are not in the list.
func (s *source) addZero(b *guest.Block, n uint32) {
	size := uint64(s.r.layout.PageSize)
	first := uint64(n) * chunkPages
	end := min(first+chunkPages, s.r.layout.Pages(b))
	limit := s.r.layout.PacketPages()
	j := job{block: b, chunk: n}
	list := s.list
	for page := first; page < end; page++ {
		if len(list) > 0 && first+uint64(list[0].page) == page {
			list = list[1:]
			continue
		}
		j.zero = append(j.zero, page*size)
		if len(j.zero) == limit {
			s.jobs = append(s.jobs, j)
			j.zero = nil
		}
	}
	if len(j.zero) > 0 {
		s.jobs = append(s.jobs, j)
	}
}

// fill reads the extent of a job and puts its pages into the batch.
func (r *Reader) fill(ctx context.Context, b *guest.Batch, j job) error {
	buf, ok := b.Scratch.(*batchBuffers)
	if !ok || buf.dec.pageSize != r.layout.PageSize {
		buf = &batchBuffers{
			dec: newDecoder(r.layout.PageSize), payload: make([]byte, maxExtentLen(r.layout.PageSize)),
			pages: make([]byte, extentPages(r.layout.PageSize)*r.layout.PageSize),
		}
		b.Scratch = buf
	}
	payload, err := r.payload(ctx, j.ext, buf.payload)
	if err != nil {
		return err
	}
	x, err := buf.dec.parse(j.ext, payload)
	if err != nil {
		return corrupt(r.pages[j.ext.object].Name, "extent at %d: %v", j.ext.offset, err)
	}
	if b.TakeDeflated && x.codec == codecDeflate {
		b.Form = guest.Deflated
	}
	size := r.layout.PageSize
	for i, en := range j.run {
		var data []byte
		if b.Form == guest.Deflated {
			data = x.deflated(en.loc.slot())
		} else if data, err = buf.dec.page(&x, en.loc.slot(), buf.pages[i*size:(i+1)*size]); err != nil {
			return corrupt(r.pages[j.ext.object].Name, "extent at %d: %v", j.ext.offset, err)
		}
		b.Normal = append(b.Normal, (uint64(j.chunk)*chunkPages+uint64(en.page))*uint64(size))
		b.Data = append(b.Data, data)
	}
	return nil
}
