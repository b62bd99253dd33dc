package multifd_test

import (
	"bytes"
	"sync/atomic"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/iaa/iaamodel"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/pagecodec"
)

// accelerated configures channel 3 with an accelerator on a model of a device.
func accelerated(t *testing.T) multifd.ChannelConfig {
	t.Helper()
	m, err := iaamodel.New(t.TempDir(), iaamodel.Uniform(1, nil))
	if err != nil {
		t.Fatal(err)
	}
	acc := pagecodec.NewAccelerator(pagecodec.Options{Policy: pagecodec.Require, Device: m.Options()})
	t.Cleanup(func() {
		if s, ok := acc.Stats(); !ok || s.Pages.Hardware == 0 {
			t.Errorf("the device did nothing: %+v", s)
		}
		if err := acc.Close(); err != nil {
			t.Error(err)
		}
		if v := m.Violations(); len(v) > 0 {
			t.Errorf("the driver did wrong: %v", v)
		}
	})
	return multifd.ChannelConfig{Channel: 3, PageSize: page4K, Accelerator: acc}
}

func acceleratedReceiver(t *testing.T, wire []byte, l *guest.Layout) *multifd.Receiver {
	t.Helper()
	r, err := multifd.NewReceiver(bytes.NewReader(wire), multifd.QPL, accelerated(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	r.SetLayout(l)
	return r
}

func TestQPLOnADevice_PacketsOverlap(t *testing.T) {
	l := layout(t, page4K)
	var batches []*guest.Batch
	r := seeded("overlap")
	for i := range 12 { // of different pages, as in a round
		b := &guest.Batch{Block: l.Block("pc.ram")}
		for page := range 20 {
			b.Normal = append(b.Normal, uint64(20*i+page)*page4K)
			b.Data = append(b.Data, makePage(r, "mixed", page4K))
		}
		batches = append(batches, b)
	}
	var wire bytes.Buffer
	var num atomic.Uint64
	s, err := multifd.NewSender(&wire, multifd.QPL, &num, accelerated(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i, b := range batches {
		if err := s.Send(b); err != nil {
			t.Fatal(err)
		}
		if !s.Holds(b) || i > 0 && s.Holds(batches[i-1]) {
			t.Errorf("after batch %d: holds it %v", i, s.Holds(b))
		}
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	for name, receiver := range map[string]*multifd.Receiver{
		"software": receiver(t, bytes.NewReader(wire.Bytes()), multifd.QPL, l),
		"device":   acceleratedReceiver(t, wire.Bytes(), l),
	} {
		mem := memory(t, l)
		if _, err := receiveAll(receiver, laneOf(t, mem)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := receiver.Flush(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		checkMemory(t, mem, batches...)
	}
}

// The error comes after the next packet was read, and names the packet and page
// that it is about.
func TestQPLOnADevice_MalformedPagesAreNamedLater(t *testing.T) {
	l := layout(t, page4K)
	z := rawDeflate(t, make([]byte, page4K))
	bad := newRawPacket(page4K, 8, "pc.ram", offsets(page4K, 1, 5), nil, framed(z, []byte{0xff}))
	bad.num = 7
	r := acceleratedReceiver(t, bytes.Join([][]byte{bad.bytes(), syncPacket(page4K)}, nil), l)
	if _, err := receiveAll(r, laneOf(t, memory(t, l))); err != nil {
		t.Fatalf("before the sync point: %v", err)
	}
	wantChannelError(t, r.Flush(), multifd.ErrMalformed, r.Count(), `packet 7, page 2 of 2, at 0x5000 in RAM block "pc.ram"`)
}

func TestQPLOnADevice_DeflatedPagesAreCheckedBeforeTheyAreKept(t *testing.T) {
	l := layout(t, page4K)
	z := rawDeflate(t, make([]byte, page4K))
	lane := &keepingLane{wants: true}
	p := newRawPacket(page4K, 8, "pc.ram", offsets(page4K, 1, 5), nil, framed(z, []byte{0xff}))
	_, err := receiveAll(acceleratedReceiver(t, p.bytes(), l), lane)
	wantChannelError(t, err, multifd.ErrMalformed, 1, `page 2 of 2, at 0x5000 in RAM block "pc.ram"`)
	if lane.block != nil {
		t.Error("the lane got them all the same")
	}
}
