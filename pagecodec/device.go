package pagecodec

import (
	"context"
	"errors"
	"sync"

	"github.com/vmferry/vmferry/iaa/hybrid"
)

// background is the context of jobs on the device. The driver bounds each job with a
// deadline, and software processes the pages of a job that misses it.
var background = context.Background()

// deviceChannel is one goroutine's use of the device.
type deviceChannel struct {
	acc   *Accelerator
	ch    *hybrid.Channel
	close sync.Once
}

func (*deviceChannel) Overlaps() bool { return true }

func (c *deviceChannel) Close() { c.close.Do(func() { c.acc.closeChannel(c.ch) }) }

// deviceEncoder deflates on the device. Its caller begins a batch before it finishes the
// previous one, so that the device has work while the caller writes a packet.
type deviceEncoder struct {
	deviceChannel
	begun    [2]deviceBatch // unfinished batches in order
	waiting  int            // number of unfinished batches
	finished deviceBatch
}

// deviceBatch is a packet on the device and its pages.
type deviceBatch struct {
	packet *hybrid.Packet
	pages  [][]byte
}

func (e *deviceEncoder) Begin(pages [][]byte) error {
	if e.waiting == len(e.begun) || e.waiting > 0 && e.finished.packet != nil {
		return errTooMany
	}
	packet, err := e.ch.Compress(pages)
	if err != nil {
		return err
	}
	e.begun[e.waiting] = deviceBatch{packet, pages}
	e.waiting++
	return nil
}

func (e *deviceEncoder) Finish() error {
	if e.waiting == 0 {
		return errNotBegun
	}
	e.Release()
	if err := e.begun[0].packet.Finish(background); err != nil {
		return err
	}
	e.finished, e.begun[0], e.begun[1] = e.begun[0], e.begun[1], deviceBatch{}
	e.waiting--
	return nil
}

func (e *deviceEncoder) Stream(i int, _ []byte) []byte {
	if out := e.finished.packet.Outputs()[i]; out != nil {
		return out
	}
	return e.finished.pages[i]
}

func (e *deviceEncoder) Release() {
	if e.finished.packet != nil {
		e.finished.packet.Release()
		e.finished = deviceBatch{}
	}
}

// deviceDecoder inflates on the device.
type deviceDecoder struct {
	deviceChannel
	pageSize   int
	scratch    []byte // pages of Check
	srcs, dsts [][]byte
	begun      [2]inflating // unfinished batches in order
	waiting    int          // number of unfinished batches
}

// inflating is a batch on the device. packet is nil if all pages of the batch were
// copied. indexes[i] is the index in the batch of page i of the packet.
type inflating struct {
	packet  *hybrid.Packet
	indexes []int
}

func (d *deviceDecoder) Buffer(size int) ([]byte, error) { return d.ch.Buffer(size) }

func (d *deviceDecoder) Begin(lengths []uint32, data []byte, pages [][]byte) error {
	if d.waiting == len(d.begun) {
		return errTooMany
	}
	if err := checkBatch(lengths, data, pages, d.pageSize); err != nil {
		return err
	}
	b := &d.begun[d.waiting]
	if err := d.start(b, lengths, data, pages); err != nil {
		return err
	}
	d.waiting++
	return nil
}

// start submits the streams of a batch to the device, and copies streams that are the page
// itself. If pages is nil, the device inflates into scratch memory.
func (d *deviceDecoder) start(b *inflating, lengths []uint32, data []byte, pages [][]byte) error {
	d.srcs, d.dsts = d.srcs[:0], d.dsts[:0]
	b.packet, b.indexes = nil, b.indexes[:0]
	for i, n := range lengths {
		stream := data[:n]
		data = data[n:]
		switch {
		case int(n) < d.pageSize:
			page := d.scratch[i*d.pageSize : (i+1)*d.pageSize]
			if pages != nil {
				page = pages[i]
			}
			d.srcs, d.dsts, b.indexes = append(d.srcs, stream), append(d.dsts, page), append(b.indexes, i)
		case pages != nil:
			copy(pages[i], stream)
		}
	}
	if len(d.srcs) == 0 {
		return nil
	}
	var err error
	b.packet, err = d.ch.Inflate(d.srcs, d.dsts)
	return err
}

func (d *deviceDecoder) Finish() error {
	if d.waiting == 0 {
		return nil
	}
	err := d.begun[0].finish()
	d.begun[0], d.begun[1] = d.begun[1], d.begun[0]
	d.waiting--
	return err
}

// finish waits for the packet. It translates the page of an error to its index in the
// batch.
func (b *inflating) finish() error {
	if b.packet == nil {
		return nil
	}
	err := b.packet.Finish(background)
	b.packet.Release()
	b.packet = nil
	var page *hybrid.PageError
	if errors.As(err, &page) {
		return &PageError{b.indexes[page.Page], page.Err}
	}
	return err
}

func (d *deviceDecoder) Check(lengths []uint32, data []byte) error {
	if d.waiting == len(d.begun) {
		return errTooMany
	}
	if err := checkStreams(lengths, data, d.pageSize); err != nil {
		return err
	}
	// Use the next free entry of begun until the batch is finished.
	b := &d.begun[d.waiting]
	if err := d.start(b, lengths, data, nil); err != nil {
		return err
	}
	return b.finish()
}
