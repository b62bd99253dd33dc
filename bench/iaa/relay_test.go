//go:build !race

package main

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/vmferry/vmferry/iaa/iaamodel"
	"github.com/vmferry/vmferry/internal/corpus"
	"github.com/vmferry/vmferry/internal/soak"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/pagecodec"
	"github.com/vmferry/vmferry/relay/linkwire"
)

// planning is the processor time that a relay takes for the pages of a packet besides
// the driver: to look for zero pages, and to look pages up in the cache and keep them,
// about 1 us a page.
const planning = 128 * time.Microsecond

// TestModel_RelayKeepsDevicesBusy makes the frames of a relay's channels in virtual time.
// Each channel has the goroutine that encodes; its reading and writing take no time of
// that goroutine.
func TestModel_RelayKeepsDevicesBusy(t *testing.T) {
	const devices, channels = 4, 8
	packets := soak.Times(12, 64)
	clock, timing := iaamodel.NewClock(), iaamodel.PublishedTiming
	timing.Driver = 150 * time.Nanosecond
	cfg := iaamodel.Uniform(devices, nil)
	cfg.Clock, cfg.Seed, cfg.Timing, cfg.Mapped = clock, 1, &timing, true
	machine, err := iaamodel.New(t.TempDir(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	acc := pagecodec.NewAccelerator(pagecodec.Options{Policy: pagecodec.Require, Device: machine.Options()})
	defer acc.Close()
	var encoders []*linkwire.Encoder
	for range channels {
		e := linkwire.NewEncoder(acc)
		defer e.Close()
		warmUp(t, e) // before the actors begin
		encoders = append(encoders, e)
	}
	var elapsed time.Duration
	for _, e := range encoders {
		clock.Go(func() {
			encodeAll(t, clock, e, packets)
			elapsed = max(elapsed, clock.Now())
		})
	}
	before, began := machine.Stats().Busy, clock.Now()
	clock.Run()
	busy := float64(machine.Stats().Busy-before) / (devices * 8 * float64(elapsed-began))
	pages := float64(channels * packets * 128)
	t.Logf("%d devices, %d channels: engines busy %.0f %%, %.1f GB/s of pages", devices, channels, 100*busy, pages*4096/float64((elapsed-began).Nanoseconds()))
	if busy < 0.9 {
		t.Errorf("engines busy %.0f %%, want 90 %%", 100*busy)
	}
	for _, v := range machine.Violations() {
		t.Error(v)
	}
}

// warmUp makes the encoder set up its channel of the device.
func warmUp(t *testing.T, e *linkwire.Encoder) {
	f := packetOf(1)
	if err := e.Begin(f); err != nil {
		t.Fatal(err)
	}
	if err := e.Finish(f); err != nil {
		t.Fatal(err)
	}
}

// encodeAll makes frames as relay does: a frame is finished when the next one has been
// begun.
func encodeAll(t *testing.T, clock *iaamodel.Clock, e *linkwire.Encoder, packets int) {
	frames := []*linkwire.Frame{packetOf(1), packetOf(2), packetOf(3)}
	var begun *linkwire.Frame
	finish := func() {
		if begun == nil {
			return
		}
		if err := e.Finish(begun); err != nil {
			t.Error(err)
		}
		if begun.Forms.Deflated == 0 {
			t.Errorf("forms %+v: no page is deflated", begun.Forms)
		}
	}
	for i := range packets {
		f := frames[i%len(frames)]
		clock.Sleep(planning)
		if err := e.Begin(f); err != nil {
			t.Error(err)
			return
		}
		finish()
		begun = f
	}
	finish()
}

// packetOf is a packet of 128 pages of text.
func packetOf(seed uint64) *linkwire.Frame {
	f := &linkwire.Frame{Level: linkwire.LevelDeflate}
	f.PageSize, f.Header, f.Pages = 4096, make([]byte, multifd.HeaderLen(4096)), make([]byte, 128*4096)
	binary.BigEndian.PutUint32(f.Header, multifd.Magic)
	binary.BigEndian.PutUint32(f.Header[4:], multifd.Version)
	binary.BigEndian.PutUint32(f.Header[16:], 128)
	for i := range 128 {
		corpus.Fill(f.Pages[i*4096:(i+1)*4096], corpus.Text, seed*1000+uint64(i))
	}
	return f
}
