package codec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
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
	// Tier is the tier of package deflate that was measured, such as "avx2". It is empty for
	// a codec that is not of that package.
	Tier string `json:"tier,omitempty"`
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
	// Tiers are the tiers of package deflate to measure (see [deflate.Tiers]); nil means the
	// one that is in use.
	Tiers []string
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

// Run measures every mode in every tier of opts on the corpus that r holds (see [Load]). The
// passes of all of them take turns, so that other work on the machine affects all of them. It
// returns an error if ctx ends, if this processor cannot run a tier, and if an inflated page
// differs from the original.
func Run(ctx context.Context, r io.Reader, opts Options) ([]Result, error) {
	pages, err := Load(r, opts)
	if err != nil {
		return nil, err
	}
	if opts.Passes <= 0 {
		opts.Passes = 5
	}
	if opts.Tiers == nil {
		opts.Tiers = []string{deflate.Tier()}
	}
	var all []*measurement
	for _, tier := range opts.Tiers {
		for _, mode := range []deflate.Mode{deflate.Fast, deflate.Dense} {
			m, err := newMeasurement(tier, mode, pages)
			if err != nil {
				return nil, err
			}
			all = append(all, m)
		}
	}
	// The measured loop must stay on one thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for range opts.Passes {
		for _, m := range all {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := m.pass(); err != nil {
				return nil, err
			}
		}
	}
	results := make([]Result, len(all))
	for i, m := range all {
		results[i] = m.result()
	}
	return results, nil
}

// InTier calls f while the named tier of package deflate is in use. The Encoders and Decoders
// that f creates are of that tier.
func InTier(tier string, f func()) error {
	before := deflate.Tier()
	if err := deflate.UseTier(tier); err != nil {
		return fmt.Errorf("codec: %w", err)
	}
	f()
	return deflate.UseTier(before)
}

// measurement is the working set and the best times of one mode in one tier.
type measurement struct {
	tier     string
	mode     deflate.Mode
	pages    []byte
	packed   []byte // page i at i*PageSize
	sizes    []int  // PageSize where page i is raw
	unpacked []byte
	enc      *deflate.Encoder
	dec      *deflate.Decoder

	packTime, unpackTime time.Duration // of the fastest pass
}

func newMeasurement(tier string, mode deflate.Mode, pages []byte) (*measurement, error) {
	m := &measurement{
		tier: tier, mode: mode, pages: pages,
		packed:   make([]byte, len(pages)),
		sizes:    make([]int, len(pages)/corpus.PageSize),
		unpacked: make([]byte, len(pages)),
		packTime: math.MaxInt64, unpackTime: math.MaxInt64,
	}
	for _, b := range [][]byte{m.packed, m.unpacked} {
		for i := 0; i < len(b); i += corpus.PageSize {
			b[i] = 1
		}
	}
	return m, InTier(tier, func() { m.enc, m.dec = deflate.NewEncoder(mode), deflate.NewDecoder() })
}

// pass measures one pass over the corpus in each direction.
func (m *measurement) pass() error {
	start := time.Now()
	m.pack()
	middle := time.Now()
	if err := m.unpack(); err != nil {
		return err
	}
	end := time.Now()
	m.packTime = min(m.packTime, middle.Sub(start))
	m.unpackTime = min(m.unpackTime, end.Sub(middle))
	if !bytes.Equal(m.unpacked, m.pages) {
		return fmt.Errorf("codec: %v, tier %s: inflated pages differ from the originals", m.mode, m.tier)
	}
	return nil
}

func (m *measurement) result() Result {
	r := Result{
		Codec:        "deflate-" + m.mode.String(),
		Tier:         m.tier,
		CompressMBps: probe.MBps(len(m.pages), m.packTime),
		InflateMBps:  probe.MBps(len(m.pages), m.unpackTime),
	}
	total := 0
	for _, n := range m.sizes {
		total += n
		if n == corpus.PageSize {
			r.RawPages++
		}
	}
	r.Ratio = float64(len(m.pages)) / float64(total)
	return r
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
			return fmt.Errorf("codec: %v, tier %s: page %d: %w", m.mode, m.tier, i, err)
		}
	}
	return nil
}
