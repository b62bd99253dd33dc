package deflate

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/internal/corpus"
)

// fenced returns size bytes that end, or start if front is set, right at a page
// that must not be touched.
func fenced(t *testing.T, size int, front bool) []byte {
	t.Helper()
	page := unix.Getpagesize()
	inner := (size + page - 1) / page * page
	m, err := unix.Mmap(-1, 0, inner+2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(m); err != nil {
			t.Error(err)
		}
	})
	for _, fence := range [][]byte{m[:page], m[page+inner:]} {
		if err := unix.Mprotect(fence, unix.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	if front {
		return m[page : page+size : page+size]
	}
	return m[page+inner-size : page+inner : page+inner]
}

// Reading or writing a byte too far kills this test.
func TestDeflate_TouchesNothingBeyondTheBuffers(t *testing.T) {
	eachTier(t, func(t *testing.T, _ *routines) {
		d := NewDecoder()
		for _, n := range []int{1, 3, 8, 63, 64, 65, 500, 512, 513, 4095, 4096, 16 << 10, MaxPageSize} {
			for _, front := range []bool{false, true} {
				page, room, out := fenced(t, n, front), fenced(t, n+10, front), fenced(t, n, front)
				for _, kind := range corpus.Kinds() {
					corpus.Fill(page, kind, uint64(n))
					for _, mode := range modes {
						e := NewEncoder(mode)
						e.Deflate(room[:n/3:n/3], page)
						size := e.Deflate(room, page)
						stream := fenced(t, size, front)
						copy(stream, room)
						if got := e.Deflate(stream, page); got != size {
							t.Fatalf("%d %v bytes: %d into an exact fit for %d", n, kind, got, size)
						}
						if err := d.Inflate(out, stream); err != nil || !bytes.Equal(out, page) {
							t.Fatalf("%d %v bytes: differs, error %v", n, kind, err)
						}
						// Streams gone wrong, at every buffer's very edge.
						for i := 0; i < size; i += 1 + size/40 {
							stream[i] ^= 0x24
							_ = d.Inflate(out, stream)
							_ = d.Inflate(out, stream[i:])
							stream[i] ^= 0x24
						}
					}
					IsZero(page)
				}
				clear(page)
				if !IsZero(page) {
					t.Fatalf("%d zero bytes taken for something", n)
				}
			}
		}
	})
}
