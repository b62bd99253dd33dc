package deflate

import (
	"testing"

	"github.com/vmferry/vmferry/internal/corpus"
)

// These are for working on the package: they need nothing but Go. Figures to
// quote come from scripts/bench-codec, which has real pages and the C libraries.

// benchPages returns pages of a real guest, which take more time than generated ones, where
// the corpus lies beside the repository.
func benchPages(b *testing.B) []byte {
	if pages := guestCorpus(b); pages != nil {
		return pages
	}
	return corpus.Generate(1, 1024)
}

// eachTierAndMode runs a benchmark for each tier that this processor has and each mode.
func eachTierAndMode(b *testing.B, bench func(b *testing.B, mode Mode)) {
	defer active.Store(active.Load())
	for _, tier := range tiers {
		if !tier.runs {
			continue
		}
		active.Store(tier)
		for _, mode := range modes {
			b.Run(tier.name+"/"+mode.String(), func(b *testing.B) { bench(b, mode) })
		}
	}
}

// packAll returns each page's stream, or nil where it does not shrink.
func packAll(mode Mode, pages []byte) [][]byte {
	var streams [][]byte
	e := NewEncoder(mode)
	for at := 0; at < len(pages); at += 4096 {
		dst := make([]byte, 4095)
		streams = append(streams, dst[:e.Deflate(dst, pages[at:at+4096])])
	}
	return streams
}

func BenchmarkDeflate(b *testing.B) {
	pages := benchPages(b)
	eachTierAndMode(b, func(b *testing.B, mode Mode) { deflateAll(b, mode, pages) })
}

func deflateAll(b *testing.B, mode Mode, pages []byte) {
	e, dst := NewEncoder(mode), make([]byte, 4095)
	b.SetBytes(int64(len(pages)))
	b.ReportAllocs()
	total := 0
	for b.Loop() {
		total = 0
		for at := 0; at < len(pages); at += 4096 {
			n := e.Deflate(dst, pages[at:at+4096])
			if n == 0 {
				n = 4096
			}
			total += n
		}
	}
	b.ReportMetric(float64(len(pages))/float64(total), "ratio")
}

func BenchmarkDeflateKinds(b *testing.B) {
	for _, kind := range corpus.Kinds() {
		pages := make([]byte, 64*4096)
		for at := 0; at < len(pages); at += 4096 {
			corpus.Fill(pages[at:at+4096], kind, uint64(at))
		}
		b.Run(kind.String(), func(b *testing.B) {
			eachTierAndMode(b, func(b *testing.B, mode Mode) { deflateAll(b, mode, pages) })
		})
	}
}

func BenchmarkInflate(b *testing.B) {
	pages := benchPages(b)
	eachTierAndMode(b, func(b *testing.B, mode Mode) {
		streams := packAll(mode, pages)
		d, dst := NewDecoder(), make([]byte, 4096)
		b.SetBytes(int64(len(pages)))
		b.ReportAllocs()
		for b.Loop() {
			for i, stream := range streams {
				if len(stream) == 0 {
					copy(dst, pages[i*4096:])
				} else if err := d.Inflate(dst, stream); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

func BenchmarkIsZero(b *testing.B) {
	page := make([]byte, 4096)
	b.SetBytes(int64(len(page)))
	for b.Loop() {
		if !IsZero(page) {
			b.Fatal("zeros are not zero")
		}
	}
}
