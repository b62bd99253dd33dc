package guestmem

import (
	"bytes"
	"errors"
	"math"
	"os"
	"testing"

	"github.com/vmferry/vmferry/guest"
)

func bounceLaneOf(t testing.TB, m *Memory) guest.Lane {
	t.Helper()
	l, err := Bounced(m).Lane()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestBounced_PageIsCopiedAtCommit(t *testing.T) {
	l := mustLayout(t, 4096, guest.Block{Name: "a", Length: 4 * 4096})
	m := newMemory(t, l)
	in, a := bounceLaneOf(t, m), l.Blocks[0]
	defer in.Close()
	pages, err := in.Pages(a, []uint64{3 * 4096, 4096})
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range pages {
		if len(p) != 4096 || cap(p) != 4096 {
			t.Fatalf("page %d has %d bytes and room for %d", i, len(p), cap(p))
		}
		copy(p, bytes.Repeat([]byte{byte(i + 1)}, 4096))
	}
	if !bytes.Equal(m.Bytes(a), make([]byte, 4*4096)) {
		t.Error("a page was in the memory before Commit")
	}
	if err := in.Commit(); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 4*4096)
	copy(want[4096:], bytes.Repeat([]byte{2}, 4096))
	copy(want[3*4096:], bytes.Repeat([]byte{1}, 4096))
	if !bytes.Equal(m.Bytes(a), want) {
		t.Error("the memory is not what was committed")
	}
	// A second Commit does not copy bytes written after the first.
	pages[0][0] = 9
	if err := in.Commit(); err != nil || m.Bytes(a)[3*4096] != 1 {
		t.Errorf("a second Commit changed the memory, error %v", err)
	}
}

func TestBounced_LaneIsNotStable(t *testing.T) {
	in := bounceLaneOf(t, newMemory(t, mustLayout(t, 4096, guest.Block{Name: "a", Length: 4096})))
	defer in.Close()
	if _, ok := in.(guest.StableLane); ok {
		t.Error("the lane is stable, want not")
	}
	if _, ok := in.(guest.DeflatedLane); ok {
		t.Error("memory does not keep deflated pages")
	}
}

func TestBounced_BufferIsPrefaulted(t *testing.T) {
	size := os.Getpagesize()
	count := guest.PacketBytes / size
	l := mustLayout(t, size, guest.Block{Name: "a", Length: uint64(count * size)})
	var all []uint64
	for i := range count {
		all = append(all, uint64(i*size))
	}
	// The Go runtime, the race detector above all, sometimes causes faults of its
	// own in this thread. So the smallest count of several runs is compared.
	fill, whole := int64(math.MaxInt64), int64(math.MaxInt64)
	for range 5 {
		m := newMemory(t, l)
		in, a := bounceLaneOf(t, m), l.Blocks[0]
		var filling int64
		putting := faultsOf(t, func() {
			pages, err := in.Pages(a, all)
			if err != nil {
				t.Fatal(err)
			}
			filling = faultsOf(t, func() {
				for _, p := range pages {
					p[0] = 1
				}
			})
			if err := in.Commit(); err != nil {
				t.Fatal(err)
			}
		})
		if putting < int64(count) {
			t.Fatalf("putting %d pages into absent memory cost %d faults: this test cannot count page faults", count, putting)
		}
		fill, whole = min(fill, filling), min(whole, putting)
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if fill > int64(count/8) {
		t.Errorf("filling %d pages of the buffer cost %d faults", count, fill)
	}
	if whole > int64(count+count/8) {
		t.Errorf("putting %d pages into absent memory cost %d faults", count, whole)
	}
}

func TestBounced_ZeroPageIsNotBuffered(t *testing.T) {
	size := os.Getpagesize()
	l := mustLayout(t, size, guest.Block{Name: "a", Length: uint64(4 * size)})
	m := newMemory(t, l)
	in, a := bounceLaneOf(t, m), l.Blocks[0]
	defer in.Close()
	put(t, in, a, 0, 0x5a)
	if err := in.Zero(a, []uint64{0, uint64(size)}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.Bytes(a)[:size], make([]byte, size)) {
		t.Error("a zero page did not clear what came before")
	}
	if resident(t, m.Bytes(a))[1] {
		t.Error("a fresh zero page was touched")
	}
	if got := m.Missing(a); got != 2 {
		t.Errorf("%d pages are missing, want the 2 that were not named", got)
	}
}

func TestBounced_BufferGrowsBeyondAPacket(t *testing.T) {
	const count = guest.PacketBytes/4096 + 3
	l := mustLayout(t, 4096, guest.Block{Name: "a", Length: count * 4096})
	m := newMemory(t, l)
	in, a := bounceLaneOf(t, m), l.Blocks[0]
	defer in.Close()
	var all []uint64
	for i := range uint64(count) {
		all = append(all, i*4096)
	}
	pages, err := in.Pages(a, all)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range pages {
		p[4095] = byte(i + 1)
	}
	if err := in.Commit(); err != nil {
		t.Fatal(err)
	}
	for i := range count {
		if got := m.Bytes(a)[i*4096+4095]; got != byte(i+1) {
			t.Fatalf("page %d ends in %d, want %d", i, got, byte(i+1))
		}
	}
}

func TestBounced_ReturnsErrorsOfTheMemory(t *testing.T) {
	m := new(Memory)
	if _, err := Bounced(m).Lane(); !errors.Is(err, guest.ErrLayout) {
		t.Errorf("a lane before Setup: %v", err)
	}
	l := mustLayout(t, 4096, guest.Block{Name: "a", Length: 4096})
	if err := Bounced(m).Setup(l); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	in := bounceLaneOf(t, m)
	if _, err := in.Pages(l.Blocks[0], []uint64{4096}); !errors.Is(err, guest.ErrLayout) {
		t.Errorf("a page outside the block: %v", err)
	}
	// Commit copies nothing for the failed call.
	if err := in.Commit(); err != nil || m.Received(l.Blocks[0], 0) {
		t.Errorf("Commit after a refusal: error %v", err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
}

func TestBounced_CloseUnmapsTheBuffer(t *testing.T) {
	in := bounceLaneOf(t, newMemory(t, mustLayout(t, 4096, guest.Block{Name: "a", Length: 4096}))).(*bounceLane)
	if len(in.buffer.mem) < guest.PacketBytes {
		t.Errorf("a buffer of %d bytes", len(in.buffer.mem))
	}
	if err := in.Close(); err != nil || in.buffer.mem != nil {
		t.Errorf("the buffer is still there, error %v", err)
	}
}
