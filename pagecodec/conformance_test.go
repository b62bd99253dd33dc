package pagecodec_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/pagecodec"
)

// Both implementations give the same result for the same batches.

func TestEncoder_StreamsInflateToThePages(t *testing.T) {
	forImplementations(t, func(t *testing.T, acc *pagecodec.Accelerator) {
		for _, pageSize := range pageSizes {
			for _, mode := range []deflate.Mode{deflate.Fast, deflate.Dense} {
				t.Run(fmt.Sprintf("%v, %d bytes", mode, pageSize), func(t *testing.T) {
					e := newEncoder(t, acc, pageSize, mode)
					for _, n := range []int{1, guest.PacketPages(pageSize)} {
						pages := makePages(uint64(n), pageSize, n)
						if err := e.Begin(pages); err != nil {
							t.Fatal(err)
						}
						if err := e.Finish(); err != nil {
							t.Fatal(err)
						}
						checkStreams(t, e, pages)
						e.Release()
					}
				})
			}
		}
	})
}

// checkStreams compares the streams of the batch that was finished last with its
// pages.
func checkStreams(t *testing.T, e pagecodec.Encoder, pages [][]byte) {
	t.Helper()
	dec := deflate.NewDecoder()
	size := len(pages[0])
	for i, page := range pages {
		stream := e.Stream(i, make([]byte, size-1))
		if isRandom(i) {
			if &stream[0] != &page[0] || len(stream) != size {
				t.Errorf("page %d does not shrink, but its stream is not the page itself", i)
			}
			continue
		}
		got := make([]byte, size)
		if len(stream) >= size {
			t.Errorf("page %d: a stream of %d bytes", i, len(stream))
		} else if err := dec.Inflate(got, stream); err != nil || !bytes.Equal(got, page) {
			t.Errorf("page %d does not inflate to itself: %v", i, err)
		}
	}
}

func TestEncoder_BatchesOverlapInOrder(t *testing.T) {
	forImplementations(t, func(t *testing.T, acc *pagecodec.Accelerator) {
		e := newEncoder(t, acc, 4096, deflate.Fast)
		if err := e.Finish(); err == nil {
			t.Error("Finish succeeded without a batch")
		}
		batches := make([][][]byte, 6)
		for i := range batches {
			batches[i] = makePages(uint64(i), 4096, 20+i)
		}
		begin := func(i int) {
			t.Helper()
			if err := e.Begin(batches[i]); err != nil {
				t.Fatal(err)
			}
		}
		begin(0)
		for i := range batches {
			if i+1 < len(batches) {
				begin(i + 1)
				if err := e.Begin(batches[0]); err == nil {
					t.Error("Begin accepted a third batch")
				}
			}
			if err := e.Finish(); err != nil {
				t.Fatal(err)
			}
			checkStreams(t, e, batches[i])
			if i+1 < len(batches) {
				if err := e.Begin(batches[0]); err == nil {
					t.Error("Begin accepted a third batch while the first was not released")
				}
			}
			e.Release()
		}
	})
}

func TestEncoder_RefusesInvalidBatches(t *testing.T) {
	forImplementations(t, func(t *testing.T, acc *pagecodec.Accelerator) {
		e := newEncoder(t, acc, 4096, deflate.Fast)
		for name, pages := range map[string][][]byte{
			"a short page":   append(blank(4096, 3), make([]byte, 4095)),
			"a long page":    blank(4097, 1),
			"too many pages": blank(4096, guest.PacketPages(4096)+1),
		} {
			if err := e.Begin(pages); err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
		pages := makePages(1, 4096, 3)
		if err := errors.Join(e.Begin(pages), e.Finish()); err != nil {
			t.Fatalf("a batch after those: %v", err)
		}
		checkStreams(t, e, pages)
		e.Close()
		e.Close()
	})
}

func TestDecoder_FillsPages(t *testing.T) {
	forImplementations(t, func(t *testing.T, acc *pagecodec.Accelerator) {
		for _, pageSize := range pageSizes {
			t.Run(fmt.Sprint(pageSize), func(t *testing.T) {
				d := newDecoder(t, acc, pageSize)
				var begun []func()
				for n := range 5 {
					count := 1 + n*(guest.PacketPages(pageSize)-1)/4
					pages := makePages(uint64(n), pageSize, count)
					b := deflated(t, pages)
					buf, err := d.Buffer(len(b.data))
					if err != nil {
						t.Fatal(err)
					}
					copy(buf, b.data)
					got := blank(pageSize, count)
					given := slices.Clone(got)
					if err := d.Begin(b.lengths, buf, given); err != nil {
						t.Fatal(err)
					}
					clear(given) // the decoder has its own
					begun = append(begun, func() {
						if err := d.Finish(); err != nil {
							t.Fatal(err)
						}
						for i := range got {
							if !bytes.Equal(got[i], pages[i]) {
								t.Fatalf("batch %d: page %d differs", n, i)
							}
						}
					})
					if len(begun) == 2 {
						begun[0]()
						begun = begun[1:]
					}
					if len(begun) == 1 && !d.Overlaps() {
						begun[0]()
						begun = nil
					}
				}
				for _, finish := range begun {
					finish()
				}
				if err := d.Finish(); err != nil {
					t.Errorf("without a batch: %v", err)
				}
			})
		}
	})
}

func TestDecoder_NamesThePageThatDoesNotInflate(t *testing.T) {
	pages := makePages(3, 4096, 12)
	good := deflated(t, pages)
	short := make([]byte, 4095)
	for name, stream := range map[string][]byte{
		"a reserved block type": {0xff, 0xff},
		"a page too short":      deflated(t, [][]byte{short}).data,
		"a truncated stream":    good.data[:good.lengths[0]/2],
	} {
		bad := new(batch)
		for i, page := range pages {
			one := deflated(t, [][]byte{page}).data
			if i == 6 { // behind pages 1 and 5, which are whole
				one = stream
			}
			bad.add(one)
		}
		t.Run(name, func(t *testing.T) {
			forImplementations(t, func(t *testing.T, acc *pagecodec.Accelerator) {
				d := newDecoder(t, acc, 4096)
				err := d.Begin(bad.lengths, bad.data, blank(4096, len(pages)))
				if err == nil {
					err = d.Finish()
				}
				checkPageError(t, err)
				checkPageError(t, d.Check(bad.lengths, bad.data))
				// The decoder still works.
				if err := d.Check(good.lengths, good.data); err != nil {
					t.Error(err)
				}
				got := blank(4096, len(pages))
				if err := d.Begin(good.lengths, good.data, got); err != nil {
					t.Fatal(err)
				}
				if err := d.Finish(); err != nil || !slices.EqualFunc(got, pages, bytes.Equal) {
					t.Errorf("a good batch after a bad one: %v", err)
				}
			})
		})
	}
}

func checkPageError(t *testing.T, err error) {
	t.Helper()
	page, ok := errors.AsType[*pagecodec.PageError](err)
	if !ok || page.Page != 6 || page.Err == nil {
		t.Errorf("%v, want an error of page 6", err)
	}
}

func TestDecoder_RefusesInvalidBatches(t *testing.T) {
	forImplementations(t, func(t *testing.T, acc *pagecodec.Accelerator) {
		d := newDecoder(t, acc, 4096)
		good := deflated(t, makePages(1, 4096, 4))
		with := func(n uint32) []uint32 { return append(slices.Clone(good.lengths[:3]), n) }
		most := guest.PacketPages(4096)
		for name, b := range map[string]batch{
			"an empty stream":  {with(0), good.data},
			"a long stream":    {with(4097), good.data},
			"an enormous one":  {with(1<<32 - 1), good.data},
			"too little data":  {good.lengths, good.data[1:]},
			"too much data":    {good.lengths, append(slices.Clone(good.data), 0)},
			"too many streams": {slices.Repeat([]uint32{1}, most+1), make([]byte, most+1)},
		} {
			_, isPage := errors.AsType[*pagecodec.PageError](d.Begin(b.lengths, b.data, blank(4096, len(b.lengths))))
			if err := d.Check(b.lengths, b.data); err == nil || isPage {
				t.Errorf("%s: %v", name, err)
			}
			if err := d.Begin(b.lengths, b.data, blank(4096, len(b.lengths))); err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
		if err := d.Begin(good.lengths, good.data, blank(4096, 3)); err == nil {
			t.Error("Begin accepted four streams for three pages")
		}
		if err := d.Begin(good.lengths, good.data, blank(4095, 4)); err == nil {
			t.Error("Begin accepted pages that are too short")
		}
		if err := d.Check(good.lengths, good.data); err != nil {
			t.Errorf("a batch after those: %v", err)
		}
		d.Close()
		d.Close()
	})
}
