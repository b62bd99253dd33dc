package codec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/internal/corpus"
	"github.com/vmferry/vmferry/internal/probe"
)

// Result is the result of one mode on a corpus. Its JSON keys are a contract with users of
// the command.
type Result struct {
	// Codec is "deflate-fast" or "deflate-dense".
	Codec string `json:"codec"`
	// CompressMBps and InflateMBps count uncompressed bytes, in 10^6 a second.
	// Pages kept raw count as copied, both ways.
	CompressMBps float64 `json:"compress_mbps"`
	InflateMBps  float64 `json:"inflate_mbps"`
	// Ratio is the corpus's size before to after, raw pages included.
	Ratio float64 `json:"ratio"`
	// RawPages is the number of pages that did not shrink.
	RawPages int `json:"raw_pages"`
}

// Options say how to measure. The zero value is what the command uses.
type Options struct {
	// Passes is the number of passes over the corpus in each direction; 0 means 5.
	Passes int
	// MaxBytes bounds the size of a corpus after decompression; 0 means 1 GiB.
	MaxBytes int64
}

// ErrCorpus is wrapped by errors about the content of a corpus.
var ErrCorpus = errors.New("codec: unusable corpus")

// builtInPages is the size of the generated corpus: 16 MiB, more than caches
// hold.
const builtInPages = 4096

var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// Load reads a corpus: consecutive pages of 4 KiB, either uncompressed or compressed as one
// zstd stream. A nil r means the built-in corpus. A corpus without pages, or with an
// incomplete page, is an error.
func Load(r io.Reader, opts Options) ([]byte, error) {
	if r == nil {
		return corpus.Generate(1, builtInPages), nil
	}
	limit := opts.MaxBytes
	if limit == 0 {
		limit = 1 << 30
	}
	head := make([]byte, len(zstdMagic))
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("codec: reading the corpus: %w", err)
	}
	r = io.MultiReader(bytes.NewReader(head[:n]), r)
	if bytes.Equal(head, zstdMagic) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("codec: opening the compressed corpus: %w", err)
		}
		defer z.Close()
		r = z
	}
	pages, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("codec: reading the corpus after %d bytes: %w", len(pages), err)
	case int64(len(pages)) > limit:
		return nil, fmt.Errorf("%w: more than %d bytes", ErrCorpus, limit)
	case len(pages) == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrCorpus)
	case len(pages)%corpus.PageSize != 0:
		return nil, fmt.Errorf("%w: %d bytes are not a multiple of the page size of %d bytes",
			ErrCorpus, len(pages), corpus.PageSize)
	}
	return pages, nil
}

// Run measures every mode on the corpus that r holds (see [Load]). It returns an error if
// ctx ends, and if an inflated page differs from the original.
func Run(ctx context.Context, r io.Reader, opts Options) ([]Result, error) {
	pages, err := Load(r, opts)
	if err != nil {
		return nil, err
	}
	if opts.Passes <= 0 {
		opts.Passes = 5
	}
	// The measured loop must stay on one thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var results []Result
	for _, mode := range []deflate.Mode{deflate.Fast, deflate.Dense} {
		m := newMeasurement(mode, pages)
		result, err := m.run(ctx, opts.Passes)
		if err != nil {
			return nil, err
		}
		results = append(results, result)
	}
	return results, nil
}

// measurement is one mode's working set.
type measurement struct {
	mode     deflate.Mode
	pages    []byte
	packed   []byte // page i at i*PageSize
	sizes    []int  // PageSize where page i is raw
	unpacked []byte
	enc      *deflate.Encoder
	dec      *deflate.Decoder
}

func newMeasurement(mode deflate.Mode, pages []byte) *measurement {
	m := &measurement{
		mode: mode, pages: pages,
		packed:   make([]byte, len(pages)),
		sizes:    make([]int, len(pages)/corpus.PageSize),
		unpacked: make([]byte, len(pages)),
		enc:      deflate.NewEncoder(mode),
		dec:      deflate.NewDecoder(),
	}
	for _, b := range [][]byte{m.packed, m.unpacked} {
		for i := 0; i < len(b); i += corpus.PageSize {
			b[i] = 1
		}
	}
	return m
}

func (m *measurement) run(ctx context.Context, passes int) (Result, error) {
	var pack, unpack time.Duration
	for pass := range passes {
		if err := ctx.Err(); err != nil {
			return Result{}, err
		}
		start := time.Now()
		m.pack()
		middle := time.Now()
		if err := m.unpack(); err != nil {
			return Result{}, err
		}
		end := time.Now()
		if p := middle.Sub(start); pass == 0 || p < pack {
			pack = p
		}
		if u := end.Sub(middle); pass == 0 || u < unpack {
			unpack = u
		}
	}
	if !bytes.Equal(m.unpacked, m.pages) {
		return Result{}, fmt.Errorf("codec: %v: inflated pages differ from the originals", m.mode)
	}
	r := Result{
		Codec:        "deflate-" + m.mode.String(),
		CompressMBps: probe.MBps(len(m.pages), pack),
		InflateMBps:  probe.MBps(len(m.pages), unpack),
	}
	total := 0
	for _, n := range m.sizes {
		total += n
		if n == corpus.PageSize {
			r.RawPages++
		}
	}
	r.Ratio = float64(len(m.pages)) / float64(total)
	return r, nil
}

func (m *measurement) pack() {
	for i := range m.sizes {
		at := i * corpus.PageSize
		page, slot := m.pages[at:at+corpus.PageSize], m.packed[at:at+corpus.PageSize]
		n := m.enc.Deflate(slot[:len(slot)-1], page)
		if n == 0 {
			n = copy(slot, page)
		}
		m.sizes[i] = n
	}
}

func (m *measurement) unpack() error {
	for i, n := range m.sizes {
		at := i * corpus.PageSize
		out, slot := m.unpacked[at:at+corpus.PageSize], m.packed[at:at+n]
		if n == corpus.PageSize {
			copy(out, slot)
			continue
		}
		if err := m.dec.Inflate(out, slot); err != nil {
			return fmt.Errorf("codec: %v: page %d: %w", m.mode, i, err)
		}
	}
	return nil
}
