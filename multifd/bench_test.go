package multifd_test

import (
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/multifd"
)

const benchPackets = 512 // of 512 KiB: 256 MiB a pass

// wire is a unix socket with a source that sends passes over the memory.
type wire struct {
	mem    *guestmem.Memory
	block  *guest.Block
	in     *net.UnixConn
	passes chan bool // true: with headers
}

func newWire(b *testing.B) *wire {
	b.Helper()
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "pc.ram", Length: benchPackets * guest.PacketBytes}})
	if err != nil {
		b.Fatal(err)
	}
	mem, err := guestmem.New(layout)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { mem.Close() })
	w := &wire{mem: mem, block: layout.Blocks[0], passes: make(chan bool)}
	for i := 0; i < len(mem.Bytes(w.block)); i += 64 {
		mem.Bytes(w.block)[i] = byte(i>>6) | 1 // no page is zero, all are touched
	}
	ln, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	out, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	in, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	w.in = in.(*net.UnixConn)
	b.Cleanup(func() { close(w.passes); in.Close(); out.Close() })
	go w.serve(out)
	return w
}

// serve sends a pass each time it is asked: packets, or bare pages.
func (w *wire) serve(out net.Conn) {
	var num atomic.Uint64
	sender, err := multifd.NewSender(out, multifd.None, &num, multifd.ChannelConfig{PageSize: 4096})
	if err != nil {
		panic(err)
	}
	source := make([]byte, guest.PacketBytes)
	for i := range source {
		source[i] = byte(i) | 1
	}
	batch := guest.Batch{Block: w.block}
	for i := range 128 {
		batch.Data = append(batch.Data, source[i*4096:(i+1)*4096])
	}
	for headers := range w.passes {
		for packet := range benchPackets {
			if !headers {
				bufs := net.Buffers(slices.Clone(batch.Data))
				if _, err := bufs.WriteTo(out); err != nil {
					return
				}
				continue
			}
			batch.Normal = batch.Normal[:0]
			for i := range 128 {
				batch.Normal = append(batch.Normal, uint64(packet*128+i)*4096)
			}
			if err := sender.Send(&batch); err != nil {
				return
			}
		}
	}
}

// bare reads a pass with readv and nothing else.
func (w *wire) bare(b *testing.B, r *multifd.Reader) time.Duration {
	w.passes <- false
	began := time.Now()
	mem := w.mem.Bytes(w.block)
	pages := make([][]byte, 128)
	for packet := range benchPackets {
		for i := range pages {
			at := (packet*128 + i) * 4096
			pages[i] = mem[at : at+4096]
		}
		if err := r.ReadVectors(pages); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(began)
}

// received reads a pass as a channel.
func (w *wire) received(b *testing.B, r *multifd.Receiver, lane guest.Lane) time.Duration {
	w.passes <- true
	began := time.Now()
	for range benchPackets {
		if _, _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
		if err := r.Receive(lane); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(began)
}

// BenchmarkReceiveNone compares receiving a stream of none into memory with a
// bare readv loop on the same socket, in turn. The metric "of-bare" is the
// ratio of the medians.
func BenchmarkReceiveNone(b *testing.B) {
	w := newWire(b)
	bareReader := multifd.NewReader(w.in)
	r, err := multifd.NewReceiver(w.in, multifd.None, multifd.ChannelConfig{PageSize: 4096})
	if err != nil {
		b.Fatal(err)
	}
	r.SetLayout(w.mem.Layout())
	lane, err := w.mem.Lane()
	if err != nil {
		b.Fatal(err)
	}
	w.bare(b, bareReader)
	w.received(b, r, lane)
	var bare, received []time.Duration
	b.SetBytes(benchPackets * guest.PacketBytes)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		bare = append(bare, w.bare(b, bareReader))
		b.StartTimer()
		received = append(received, w.received(b, r, lane))
	}
	slices.Sort(bare)
	slices.Sort(received)
	b.ReportMetric(float64(bare[len(bare)/2])/float64(received[len(received)/2]), "of-bare")
}

// packetOfAll is a full packet of pages of all contents.
func packetOfAll(b *testing.B) (*guest.Layout, *guest.Batch) {
	b.Helper()
	l := layout(b, page4K)
	return l, makeBatch(seeded("bench"), l, "pc.ram", "mixed", l.PacketPages(), 0)
}

// BenchmarkSendQPL deflates packets in software and drops them.
func BenchmarkSendQPL(b *testing.B) {
	for name, level := range map[string]int{"fast": 0, "dense": multifd.LevelDense} {
		b.Run(name, func(b *testing.B) {
			_, batch := packetOfAll(b)
			var num atomic.Uint64
			s, err := multifd.NewSender(io.Discard, multifd.QPL, &num, multifd.ChannelConfig{PageSize: page4K, Level: level})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			b.SetBytes(guest.PacketBytes)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Send(batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// keeping is a lane that keeps deflated pages, and forgets them.
type keeping struct{ guest.Lane }

func (keeping) KeepsDeflated() bool                                        { return true }
func (keeping) PutDeflated(*guest.Block, []uint64, []uint32, []byte) error { return nil }

// BenchmarkReceiveQPL inflates packets in software: into memory, and only to see
// that they can be.
func BenchmarkReceiveQPL(b *testing.B) {
	for _, kept := range []bool{false, true} {
		b.Run(map[bool]string{false: "inflated", true: "kept"}[kept], func(b *testing.B) {
			l, batch := packetOfAll(b)
			lane := laneOf(b, memory(b, l))
			if kept {
				lane = keeping{lane}
			}
			r := receiver(b, &again{wire: packets(b, multifd.QPL, page4K, 0, batch)[0]}, multifd.QPL, l)
			b.SetBytes(guest.PacketBytes)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := r.Next(); err != nil {
					b.Fatal(err)
				}
				if err := r.Receive(lane); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
