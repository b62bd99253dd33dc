package deflate

import (
	"slices"
	"testing"
)

func TestIsZero(t *testing.T) {
	eachTier(t, func(t *testing.T, _ *routines) {
		buf := make([]byte, 4200)
		for _, n := range []int{0, 1, 7, 8, 9, 63, 64, 511, 512, 513, 1024, 1100, 4096, 4111} {
			for _, at := range []int{0, 1, 3, 64} {
				page := buf[at : at+n]
				// What lies around the page must not matter.
				if at > 0 {
					buf[at-1] = 1
				}
				buf[at+n] = 1
				if !IsZero(page) {
					t.Fatalf("%d zero bytes at %d taken for something", n, at)
				}
				for i := range page {
					page[i] = 0x80
					if IsZero(page) {
						t.Fatalf("byte %d of %d at %d overlooked", i, n, at)
					}
					page[i] = 0
				}
				clear(buf)
			}
		}
	})
}

func TestZeroPages_Finds(t *testing.T) {
	for _, size := range []int{1, 100, 4096} {
		mem := make([]byte, 5*size+size/2)
		mem[0], mem[3*size], mem[4*size-1] = 1, 2, 3
		if size > 1 {
			mem[len(mem)-1] = 1 // no whole page
		}
		got := []bool{true, false, false, true, true, true}
		if n := ZeroPages(mem, size, got); n != 3 {
			t.Errorf("size %d: %d zero pages, want 3", size, n)
		}
		if want := []bool{false, true, true, false, true, true}; !slices.Equal(got, want) {
			t.Errorf("size %d: %v, want %v", size, got, want)
		}
	}
}

func TestZeroPages_PanicsOnMisuse(t *testing.T) {
	for name, f := range map[string]func(){
		"page size 0":  func() { ZeroPages(make([]byte, 10), 0, make([]bool, 10)) },
		"short result": func() { ZeroPages(make([]byte, 10), 1, make([]bool, 9)) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}
