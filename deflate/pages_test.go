package deflate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/vmferry/vmferry/internal/corpus"
)

// testPage is a page with a name to report it by.
type testPage struct {
	name string
	data []byte
}

// testPages returns pages that between them reach every corner of the encoder.
func testPages(t testing.TB) []testPage {
	t.Helper()
	var pages []testPage
	add := func(data []byte, format string, args ...any) {
		pages = append(pages, testPage{fmt.Sprintf(format, args...), data})
	}
	sizes := []int{1, 2, 3, 4, 5, 7, 8, 63, 64, 65, 127, 128, 129, 191, 192, 193, 1000,
		4095, 4096, 4097, 16 << 10, MaxPageSize - 1, MaxPageSize}
	for _, n := range sizes {
		for _, kind := range corpus.Kinds() {
			p := make([]byte, n)
			corpus.Fill(p, kind, uint64(n))
			add(p, "%v/%d", kind, n)
		}
		add(make([]byte, n), "zero/%d", n)
	}
	for n := 1; n <= 300; n++ {
		p := make([]byte, n)
		corpus.Fill(p, corpus.Text, uint64(n))
		add(p, "text/%d", n)
	}
	noise := make([]byte, MaxPageSize)
	corpus.Fill(noise, corpus.Random, 7)
	// Periods around the block length, the vector length and the window.
	for _, period := range []int{1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 257, 258, 259,
		1000, 2047, 2048, 2049, 4094, 4095, 4096, 4097, 4100, 5000} {
		for _, n := range []int{4096, 3 * 4096, MaxPageSize} {
			p := make([]byte, n)
			for i := range p {
				p[i] = noise[i%period]
			}
			add(p, "period/%d/%d", period, n)
		}
	}
	// Skewed bytes without matches, and few symbols.
	for _, symbols := range []int{2, 3, 16, 100, 150, 255} {
		p := make([]byte, 4096)
		for i := range p {
			p[i] = byte(int(noise[i]) % symbols)
		}
		add(p, "symbols/%d", symbols)
	}
	// Noise at first, zeros at last: giving up too early would show.
	p := make([]byte, 4096)
	copy(p, noise[:2048])
	add(p, "noise then zeros")
	// Fibonacci weights: the deepest tree a page can ask for.
	p = make([]byte, 0, MaxPageSize)
	for sym, a, b := byte(0), 1, 1; len(p)+a < cap(p); sym, a, b = sym+1, b, a+b {
		for range a {
			p = append(p, sym*7)
		}
	}
	for i := range p {
		j := int(noise[i]) << 8 % len(p)
		p[i], p[j] = p[j], p[i]
	}
	add(p, "fibonacci")
	return append(pages, guestPages(t)...)
}

// guestPages returns some of the pages of a real guest where the corpus lies beside the
// repository, and generated ones in any case.
func guestPages(t testing.TB) []testPage {
	t.Helper()
	data := corpus.Generate(99, 64)
	all := guestCorpus(t)
	// Some of them, to keep the race detector's run short; benchmarks have them all.
	for at := 0; at+4096 <= len(all); at += 31 * 4096 {
		data = append(data, all[at:at+4096]...)
	}
	var pages []testPage
	for at := 0; at < len(data); at += 4096 {
		pages = append(pages, testPage{fmt.Sprintf("guest/%d", at/4096), data[at : at+4096]})
	}
	return pages
}

// guestCorpus returns the pages of a real guest where the corpus lies beside the
// repository, and nothing elsewhere.
func guestCorpus(t testing.TB) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "shared", "corpus", "guest-pages.bin.zst"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	all, err := readAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
