package multifd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/socketpair"
	"github.com/vmferry/vmferry/multifd"
)

func sender(t testing.TB, w io.Writer, m multifd.Method) *multifd.Sender {
	t.Helper()
	s, err := multifd.NewSender(w, m, new(atomic.Uint64), multifd.ChannelConfig{Channel: 3, PageSize: page4K})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestSender_InvalidBatchIsNotSent(t *testing.T) {
	l := layout(t, page4K)
	b := makeBatch(seeded("no packet"), l, "pc.ram", "text", 128, 0)
	for name, b := range map[string]*guest.Batch{
		"a page too many":      {Block: b.Block, Normal: b.Normal, Data: b.Data, Zero: []uint64{0}},
		"data missing":         {Block: b.Block, Normal: b.Normal, Data: b.Data[:127]},
		"data without a place": {Block: b.Block, Zero: []uint64{0}, Data: b.Data[:1]},
	} {
		var buf bytes.Buffer
		if err := sender(t, &buf, multifd.None).Send(b); err == nil || buf.Len() != 0 {
			t.Errorf("%s: %v, with %d bytes sent", name, err, buf.Len())
		}
	}
}

func TestSender_EmptyBatchSendsNothing(t *testing.T) {
	forMethods(t, func(t *testing.T, m multifd.Method) {
		var buf bytes.Buffer
		if err := sender(t, &buf, m).Send(new(guest.Batch)); err != nil || buf.Len() != 0 {
			t.Errorf("%v, with %d bytes sent", err, buf.Len())
		}
	})
}

func TestSender_NumbersPacketsOfAllChannelsTogether(t *testing.T) {
	var num atomic.Uint64
	l := layout(t, page4K)
	var wires []*bytes.Buffer
	var senders []*multifd.Sender
	for id := range 3 {
		w := new(bytes.Buffer)
		s, err := multifd.NewSender(w, multifd.None, &num, multifd.ChannelConfig{Channel: id, PageSize: page4K})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		wires, senders = append(wires, w), append(senders, s)
	}
	b := makeBatch(seeded("numbers"), l, "pc.ram", "text", 1, 0)
	for n := range uint64(9) {
		s, w := senders[n%3], wires[n%3]
		w.Reset()
		do := func() error { return s.Send(b) }
		if n%2 == 1 {
			do = s.Sync
		}
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if got := binary.BigEndian.Uint64(w.Bytes()[24:]); got != n+1 {
			t.Errorf("packet_num %d, want %d", got, n+1)
		}
	}
}

// brokenPipe takes some bytes and then fails.
type brokenPipe struct{ left int }

func (b *brokenPipe) Write(p []byte) (int, error) {
	n := min(b.left, len(p))
	b.left -= n
	if n < len(p) {
		return n, io.ErrClosedPipe
	}
	return n, nil
}

func TestSender_FailedWriteNamesTheChannel(t *testing.T) {
	l := layout(t, page4K)
	b := makeBatch(seeded("fails"), l, "pc.ram", "text", 4, 0)
	for _, left := range []int{0, 100, 1344, 1344 + 5000} {
		s := sender(t, &brokenPipe{left}, multifd.None)
		err := s.Send(b)
		if !errors.Is(err, io.ErrClosedPipe) || !bytes.Contains([]byte(err.Error()), []byte("channel 3")) {
			t.Errorf("after %d bytes: %v", left, err)
		}
		if s.Bytes() != uint64(left) {
			t.Errorf("%d bytes counted, %d were written", s.Bytes(), left)
		}
	}
}

func TestSender_WritesAPacketWhole(t *testing.T) {
	l := layout(t, page4K)
	forMethods(t, func(t *testing.T, m multifd.Method) {
		a, b := socketpair.New(t)
		batch := makeBatch(seeded("socket"), l, "pc.ram", "mixed", 128, 0)
		done := make(chan error, 1)
		go func() {
			s := sender(t, a, m)
			var err error
			for range 4 {
				err = errors.Join(err, s.Send(batch))
			}
			done <- errors.Join(err, a.Close())
		}()
		mem := memory(t, l)
		if n, err := receiveAll(receiver(t, b, m, l), laneOf(t, mem)); n != 4 || err != nil {
			t.Fatalf("%d packets, %v", n, err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		checkMemory(t, mem, batch)
	})
}
