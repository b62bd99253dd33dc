package guestmem

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/guest"
)

func mustLayout(t testing.TB, pageSize int, blocks ...guest.Block) *guest.Layout {
	t.Helper()
	l, err := guest.NewLayout(pageSize, blocks)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newMemory(t testing.TB, l *guest.Layout) *Memory {
	t.Helper()
	m, err := New(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func lane(t testing.TB, m *Memory) guest.Lane {
	t.Helper()
	l, err := m.Lane()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// put writes one page that is filled with a byte.
func put(t testing.TB, l guest.Lane, b *guest.Block, offset uint64, fill byte) {
	t.Helper()
	pages, err := l.Pages(b, []uint64{offset})
	if err != nil {
		t.Fatal(err)
	}
	for i := range pages[0] {
		pages[0][i] = fill
	}
	if err := l.Commit(); err != nil {
		t.Fatal(err)
	}
}

// resident reports which pages of mem are present.
func resident(t testing.TB, mem []byte) []bool {
	t.Helper()
	vec := make([]byte, (len(mem)+os.Getpagesize()-1)/os.Getpagesize())
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(mem))), uintptr(len(mem)), uintptr(unsafe.Pointer(unsafe.SliceData(vec))))
	if errno != 0 {
		t.Fatalf("mincore: %v", errno)
	}
	in := make([]bool, len(vec))
	for i, v := range vec {
		in[i] = v&1 != 0
	}
	return in
}

func TestMemory_PagesAreTheMemoryItself(t *testing.T) {
	l := mustLayout(t, 4096, guest.Block{Name: "a", Length: 4 * 4096}, guest.Block{Name: "b", Length: 2 * 4096})
	m := newMemory(t, l)
	in := lane(t, m)
	b := l.Block("b")
	pages, err := in.Pages(b, []uint64{4096, 0})
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) != 2 || &pages[0][0] != &m.Bytes(b)[4096] || &pages[1][0] != &m.Bytes(b)[0] {
		t.Fatal("the pages are not those of the block, in the order asked for")
	}
	for i, p := range pages {
		if len(p) != 4096 || cap(p) != 4096 {
			t.Errorf("page %d has %d bytes and room for %d", i, len(p), cap(p))
		}
	}
}

func TestMemory_LaneRefusesOffsetsOutsideTheBlock(t *testing.T) {
	l := mustLayout(t, 4096, guest.Block{Name: "a", Length: 4 * 4096})
	m := newMemory(t, l)
	in := lane(t, m)
	for _, off := range []uint64{4 * 4096, 1, ^uint64(0) &^ 4095} {
		if _, err := in.Pages(l.Blocks[0], []uint64{0, off}); !errors.Is(err, guest.ErrLayout) {
			t.Errorf("Pages at %#x: %v", off, err)
		}
		if err := in.Zero(l.Blocks[0], []uint64{off}); !errors.Is(err, guest.ErrLayout) {
			t.Errorf("Zero at %#x: %v", off, err)
		}
	}
}

func TestMemory_FreshZeroPageIsNotTouched(t *testing.T) {
	const pages = 64
	size := os.Getpagesize()
	l := mustLayout(t, size, guest.Block{Name: "a", Length: uint64(pages * size)})
	m := newMemory(t, l)
	in := lane(t, m)
	a := l.Blocks[0]
	var all []uint64
	for i := range pages {
		all = append(all, uint64(i*size))
	}
	if err := in.Zero(a, all); err != nil {
		t.Fatal(err)
	}
	for i, in := range resident(t, m.Bytes(a)) {
		if in {
			t.Errorf("page %d was faulted in by a zero page", i)
		}
	}
	put(t, in, a, all[3], 0xaa)
	if !resident(t, m.Bytes(a))[3] {
		t.Error("a written page is absent: this test cannot detect a fault")
	}
	for i, off := range all {
		if got, want := m.Received(a, off), i == 3; got != want {
			t.Errorf("page %d received: %v, want %v", i, got, want)
		}
	}
}

func TestMemory_ZeroPageClearsEarlierData(t *testing.T) {
	l := mustLayout(t, 4096, guest.Block{Name: "a", Length: 200 * 4096})
	m := newMemory(t, l)
	in := lane(t, m)
	a := l.Blocks[0]
	for _, page := range []uint64{0, 63, 64, 199} { // the edges of the bitmap's words
		put(t, in, a, page*4096, 0x5a)
	}
	if err := in.Zero(a, []uint64{63 * 4096, 199 * 4096}); err != nil {
		t.Fatal(err)
	}
	for page := range uint64(200) {
		want := byte(0)
		if page == 0 || page == 64 {
			want = 0x5a
		}
		if got := m.Bytes(a)[page*4096:][:4096]; !bytes.Equal(got, bytes.Repeat([]byte{want}, 4096)) {
			t.Errorf("page %d is not filled with %#x", page, want)
		}
	}
	put(t, in, a, 63*4096, 0x77)
	if m.Bytes(a)[63*4096] != 0x77 {
		t.Error("data after a zero page does not count")
	}
}

func TestAttach_ZeroPageIsWritten(t *testing.T) {
	l := mustLayout(t, 4096, guest.Block{Name: "a", Length: 2 * 4096}, guest.Block{Name: "b", Length: 4096})
	mem := [][]byte{bytes.Repeat([]byte{1}, 2*4096), bytes.Repeat([]byte{2}, 4096)}
	m, err := Attach(l, mem)
	if err != nil {
		t.Fatal(err)
	}
	if err := lane(t, m).Zero(l.Blocks[0], []uint64{4096}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(mem[0][4096:], make([]byte, 4096)) || mem[0][0] != 1 || mem[1][0] != 2 {
		t.Error("a zero page did not clear that page, or cleared another")
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if mem[1][0] != 2 || m.Bytes(l.Blocks[1]) == nil {
		t.Error("Close unmapped the caller's memory")
	}
}

func TestAttach_RefusesMemoryOfAnotherLayout(t *testing.T) {
	l := mustLayout(t, 4096, guest.Block{Name: "a", Length: 2 * 4096}, guest.Block{Name: "b", Length: 4096})
	for name, mem := range map[string][][]byte{
		"a slice too few":  {make([]byte, 2*4096)},
		"a slice too many": {make([]byte, 2*4096), make([]byte, 4096), nil},
		"a slice too long": {make([]byte, 2*4096), make([]byte, 4097)},
		"an empty slice":   {nil, make([]byte, 4096)},
	} {
		if _, err := Attach(l, mem); !errors.Is(err, guest.ErrLayout) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMemory_SetupSucceedsOnce(t *testing.T) {
	m := new(Memory)
	if _, err := m.Lane(); !errors.Is(err, guest.ErrLayout) {
		t.Errorf("a lane before Setup: %v", err)
	}
	if m.Layout() != nil {
		t.Error("a layout before Setup")
	}
	l := mustLayout(t, 4096, guest.Block{Name: "a", Length: 4096})
	if err := m.Setup(l); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if m.Layout() != l {
		t.Error("another layout than that of Setup")
	}
	if err := m.Setup(l); !errors.Is(err, guest.ErrLayout) {
		t.Errorf("a second Setup: %v", err)
	}
}

func TestMemory_SecondCloseDoesNothing(t *testing.T) {
	m, err := New(mustLayout(t, 4096, guest.Block{Name: "a", Length: 4096}))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := m.Close(); err != nil {
			t.Errorf("call %d: %v", i+1, err)
		}
	}
}

func TestMemory_LaneDoesNotAllocateInTheSteadyState(t *testing.T) {
	l := mustLayout(t, 4096, guest.Block{Name: "a", Length: 256 * 4096})
	m := newMemory(t, l)
	in := lane(t, m)
	var normal, zero []uint64
	for i := range uint64(128) {
		normal, zero = append(normal, i*4096), append(zero, (128+i)*4096)
	}
	round := func() {
		if _, err := in.Pages(l.Blocks[0], normal); err != nil {
			t.Fatal(err)
		}
		if err := in.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := in.Zero(l.Blocks[0], zero); err != nil {
			t.Fatal(err)
		}
	}
	round()
	if n := testing.AllocsPerRun(20, round); n != 0 {
		t.Errorf("%v allocations a packet", n)
	}
}
