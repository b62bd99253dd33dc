package iaa_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

// Layout of a multifd channel, as far as these tests need it.
const (
	channelHeader = 64
	packetHeader  = 320
	compressQPL   = 8 // in the flags
)

// packet is a multifd packet with its pages still compressed.
type packet struct {
	block   string
	offsets []uint64 // of the pages in their block
	streams [][]byte // a page each; raw if of the page's size
}

// readPacket reads the next packet of a qpl channel.
func readPacket(r io.Reader) (*packet, error) {
	var h [packetHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	flags, alloc := binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:])
	normal, size := binary.BigEndian.Uint32(h[16:]), binary.BigEndian.Uint32(h[20:])
	if binary.BigEndian.Uint32(h[0:]) != 0x11223344 || alloc > 128 || normal > 128 || size > 128*(pageSize+4) {
		return nil, fmt.Errorf("not a packet: % x", h[:32])
	}
	offsets := make([]byte, 8*128)
	if _, err := io.ReadFull(r, offsets); err != nil {
		return nil, err
	}
	name, _, _ := bytes.Cut(h[64:], []byte{0})
	p := &packet{block: string(name)}
	if normal == 0 {
		return p, nil
	}
	if flags&0x3e != compressQPL {
		return nil, fmt.Errorf("packet with flags %#x, not of the qpl method", flags)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return nil, err
	}
	data := payload[4*normal:]
	for i := range int(normal) {
		n := binary.BigEndian.Uint32(payload[4*i:])
		if n == 0 || n > pageSize || int(n) > len(data) {
			return nil, fmt.Errorf("page %d of %d bytes, %d left", i, n, len(data))
		}
		p.offsets = append(p.offsets, binary.BigEndian.Uint64(offsets[8*i:]))
		p.streams = append(p.streams, data[:n])
		data = data[n:]
	}
	return p, nil
}

// readChannel calls f for every packet of a recorded channel and returns the
// number of compressed pages.
func readChannel(t *testing.T, path string, f func(*packet)) (pages int) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	z, err := zstd.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if _, err := io.CopyN(io.Discard, z, channelHeader); err != nil {
		t.Fatal(err)
	}
	for {
		p, err := readPacket(z)
		if errors.Is(err, io.EOF) {
			return pages
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range p.streams {
			if len(s) < pageSize {
				pages++
			}
		}
		f(p)
	}
}

// inflatePacket inflates a packet's pages to where the offsets say.
func inflatePacket(t *testing.T, s *iaa.Session, p *packet, mem []byte) {
	t.Helper()
	var started []int
	for i, src := range p.streams {
		dst := mem[p.offsets[i]:][:pageSize]
		if len(src) == pageSize {
			copy(dst, src)
			continue
		}
		if err := s.SubmitInflate(i, src, dst); err != nil {
			t.Fatal(err)
		}
		started = append(started, i)
	}
	for _, i := range started {
		if _, err := s.Wait(t.Context(), i); err != nil {
			t.Fatalf("page at %#x: %v", p.offsets[i], err)
		}
	}
}

// TestCapture_RecordedChannel inflates the beginning of a recorded migration with QEMU's
// qpl method, page by page the same as compress/flate does.
func TestCapture_RecordedChannel(t *testing.T) {
	m, d := start(t, iaamodel.Uniform(1, nil), nil)
	s := session(t, d, iaa.SessionConfig{Slots: 128})
	mem := guest(t, m, d, 64<<20)
	pages := readChannel(t, filepath.Join("testdata", "qpl-channel.zst"), func(p *packet) {
		if p.block != "ram0" {
			return
		}
		inflatePacket(t, s, p, mem)
		for i, src := range p.streams {
			want := src
			if len(src) < pageSize {
				var err error
				if want, err = inflateGo(src); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(mem[p.offsets[i]:][:pageSize], want) {
				t.Fatalf("page at %#x: wrong bytes", p.offsets[i])
			}
		}
	})
	if pages < 50 {
		t.Errorf("%d compressed pages, want 50 at least", pages)
	}
}

func guest(t *testing.T, m *iaamodel.Machine, d *iaa.Device, size int) []byte {
	t.Helper()
	mem, err := m.Guest(size, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Register(mem); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(d.Unregister(mem), m.Unmap(mem)); err != nil {
			t.Error(err)
		}
	})
	return mem
}

// TestCapture_WholeRecordings restores the memory of the recorded migrations, where they
// are at hand, and compares its hash with that of the destination. Where they
// are not, TestCapture_RecordedChannel has done the same for a part of one.
func TestCapture_WholeRecordings(t *testing.T) {
	for name, size := range map[string]int{"synthetic-qpl-2ch": 64 << 20, "linux-qpl-2ch": 128 << 20} {
		dir := filepath.Join("..", "..", "shared", "captures", name)
		sum, err := os.ReadFile(filepath.Join(dir, "ram0.sha256"))
		if errors.Is(err, os.ErrNotExist) {
			t.Logf("no recording %s", name)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			m, d := start(t, iaamodel.Uniform(2, nil), nil)
			s := session(t, d, iaa.SessionConfig{Slots: 128})
			mem := guest(t, m, d, size)
			pages := 0
			if name == "synthetic-qpl-2ch" {
				for _, conn := range []string{"conn1", "conn2"} {
					pages += readChannel(t, filepath.Join(dir, conn+".src.zst"), func(p *packet) {
						if p.block == "ram0" {
							inflatePacket(t, s, p, mem)
						}
					})
				}
				want, _, _ := strings.Cut(string(sum), " ")
				if got := sha256.Sum256(mem); hex.EncodeToString(got[:]) != want {
					t.Errorf("memory hashes to %x, want %s", got, want)
				}
			} else {
				// Its rounds are ordered by the main channel, which is none of
				// this package's business: page by page against compress/flate.
				for _, conn := range []string{"conn1", "conn2"} {
					pages += readChannel(t, filepath.Join(dir, conn+".src.zst"), func(p *packet) {
						if p.block != "ram0" {
							return
						}
						inflatePacket(t, s, p, mem)
						for i, src := range p.streams {
							want, err := src, error(nil)
							if len(src) < pageSize {
								want, err = inflateGo(src)
							}
							if err != nil || !bytes.Equal(mem[p.offsets[i]:][:pageSize], want) {
								t.Fatalf("page at %#x: wrong bytes, %v", p.offsets[i], err)
							}
						}
					})
				}
			}
			t.Logf("%d compressed pages", pages)
			if pages < 800 {
				t.Errorf("%d compressed pages: the recording is not what it should be", pages)
			}
		})
	}
}
