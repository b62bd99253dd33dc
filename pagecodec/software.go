package pagecodec

import (
	"errors"

	"github.com/vmferry/vmferry/deflate"
)

var (
	errNotBegun = errors.New("pagecodec: no batch was begun")
	errTooMany  = errors.New("pagecodec: two batches are in progress (finish or release one first)")
)

// softwareEncoder deflates a page in Stream, directly into the caller's buffer.
type softwareEncoder struct {
	pageSize int
	deflate  *deflate.Encoder
	begun    [2][][]byte // unfinished batches in order
	waiting  int         // number of unfinished batches
	finished [][]byte
	held     int // 1 until the finished batch is released
}

func newSoftwareEncoder(pageSize int, mode deflate.Mode) *softwareEncoder {
	return &softwareEncoder{pageSize: pageSize, deflate: deflate.NewEncoder(mode)}
}

func (*softwareEncoder) Overlaps() bool { return false }

func (e *softwareEncoder) Begin(pages [][]byte) error {
	if e.waiting+e.held == len(e.begun) {
		return errTooMany
	}
	if err := checkPages(pages, e.pageSize); err != nil {
		return err
	}
	e.begun[e.waiting] = pages
	e.waiting++
	return nil
}

func (e *softwareEncoder) Finish() error {
	if e.waiting == 0 {
		return errNotBegun
	}
	e.finished, e.held = e.begun[0], 1
	e.begun[0], e.begun[1] = e.begun[1], nil
	e.waiting--
	return nil
}

func (e *softwareEncoder) Stream(i int, dst []byte) []byte {
	page := e.finished[i]
	dst = dst[:e.pageSize-1]
	if n := e.deflate.Deflate(dst, page); n > 0 {
		return dst[:n]
	}
	return page
}

func (e *softwareEncoder) Release() { e.finished, e.held = nil, 0 }

func (e *softwareEncoder) Close() { *e = softwareEncoder{pageSize: e.pageSize} }

// softwareDecoder inflates a batch in Begin.
type softwareDecoder struct {
	pageSize int
	inflate  *deflate.Decoder
	scratch  []byte // a page of Check
}

func newSoftwareDecoder(pageSize int) *softwareDecoder {
	return &softwareDecoder{pageSize: pageSize, inflate: deflate.NewDecoder(), scratch: Prefaulted(pageSize)}
}

func (*softwareDecoder) Overlaps() bool { return false }

func (*softwareDecoder) Buffer(size int) ([]byte, error) { return Prefaulted(size), nil }

func (d *softwareDecoder) Begin(lengths []uint32, data []byte, pages [][]byte) error {
	if err := checkBatch(lengths, data, pages, d.pageSize); err != nil {
		return err
	}
	for i, n := range lengths {
		if err := d.page(pages[i], data[:n]); err != nil {
			return &PageError{i, err}
		}
		data = data[n:]
	}
	return nil
}

func (d *softwareDecoder) page(page, stream []byte) error {
	if len(stream) == len(page) {
		copy(page, stream)
		return nil
	}
	return d.inflate.Inflate(page, stream)
}

func (*softwareDecoder) Finish() error { return nil }

func (d *softwareDecoder) Check(lengths []uint32, data []byte) error {
	if err := checkStreams(lengths, data, d.pageSize); err != nil {
		return err
	}
	for i, n := range lengths {
		if int(n) < d.pageSize {
			if err := d.inflate.Inflate(d.scratch, data[:n]); err != nil {
				return &PageError{i, err}
			}
		}
		data = data[n:]
	}
	return nil
}

func (d *softwareDecoder) Close() { *d = softwareDecoder{pageSize: d.pageSize} }

// Prefaulted returns n bytes of memory whose pages are present, so that no page fault
// delays a batch.
func Prefaulted(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 4096 {
		b[i] = 0
	}
	return b
}
