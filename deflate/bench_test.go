package deflate

import (
	"testing"

	"github.com/vmferry/vmferry/internal/corpus"
)

// These are for working on the package: they need nothing but Go. Figures to
// quote come from scripts/bench-codec, which has real pages and the C libraries.

const benchPages = 1024

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
	pages := corpus.Generate(1, benchPages)
	for _, mode := range modes {
		b.Run(mode.String(), func(b *testing.B) {
			e, dst := NewEncoder(mode), make([]byte, 4095)
			b.SetBytes(int64(len(pages)))
			b.ReportAllocs()
			for b.Loop() {
				for at := 0; at < len(pages); at += 4096 {
					e.Deflate(dst, pages[at:at+4096])
				}
			}
		})
	}
}

func BenchmarkDeflateKinds(b *testing.B) {
	for _, kind := range corpus.Kinds() {
		pages := make([]byte, 64*4096)
		for at := 0; at < len(pages); at += 4096 {
			corpus.Fill(pages[at:at+4096], kind, uint64(at))
		}
		for _, mode := range modes {
			b.Run(kind.String()+"/"+mode.String(), func(b *testing.B) {
				e, dst := NewEncoder(mode), make([]byte, 4095)
				b.SetBytes(int64(len(pages)))
				for b.Loop() {
					for at := 0; at < len(pages); at += 4096 {
						e.Deflate(dst, pages[at:at+4096])
					}
				}
			})
		}
	}
}

func BenchmarkInflate(b *testing.B) {
	pages := corpus.Generate(1, benchPages)
	for _, mode := range modes {
		b.Run(mode.String(), func(b *testing.B) {
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
