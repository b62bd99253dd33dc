package pagecodec_test

import (
	"errors"
	"testing"

	"github.com/vmferry/vmferry/deflate"
)

func TestSoftwareEncoder_WritesStreamsIntoTheCallersBuffer(t *testing.T) {
	e := newEncoder(t, nil, 4096, deflate.Fast)
	pages := makePages(1, 4096, 1)
	if err := errors.Join(e.Begin(pages), e.Finish()); err != nil {
		t.Fatal(err)
	}
	room := make([]byte, 5000)
	if stream := e.Stream(0, room); &stream[0] != &room[0] {
		t.Error("the stream is a copy")
	}
	for i, b := range room[4095:] {
		if b != 0 {
			t.Fatalf("byte %d beyond the buffer of a stream was written", i)
		}
	}
}

func TestSoftware_DoesNotAllocateInTheSteadyState(t *testing.T) {
	e, d := newEncoder(t, nil, 4096, deflate.Dense), newDecoder(t, nil, 4096)
	pages := makePages(1, 4096, 64)
	b, got, room := deflated(t, pages), blank(4096, 64), make([]byte, 4095)
	encode := func() {
		if err := e.Begin(pages); err != nil {
			t.Fatal(err)
		}
		if err := e.Finish(); err != nil {
			t.Fatal(err)
		}
		for i := range pages {
			e.Stream(i, room)
		}
		e.Release()
	}
	decode := func() {
		if err := d.Begin(b.lengths, b.data, got); err != nil {
			t.Fatal(err)
		}
		if err := d.Finish(); err != nil {
			t.Fatal(err)
		}
		if err := d.Check(b.lengths, b.data); err != nil {
			t.Fatal(err)
		}
	}
	for name, f := range map[string]func(){"encoding": encode, "decoding": decode} {
		f()
		if n := testing.AllocsPerRun(10, f); n != 0 {
			t.Errorf("%s: %v allocations a batch", name, n)
		}
	}
}
