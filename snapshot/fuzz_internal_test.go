package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/seed"
)

// addSeed adds an input to a fuzz target and, with -update, to its corpus.
func addSeed(f *testing.F, name string, args ...any) {
	f.Helper()
	seed.Add(f, flag.Lookup("update").Value.String() == "true", name, args...)
}

func seedManifest() *Manifest {
	digest := fmt.Sprintf("%064x", 1)
	return &Manifest{
		Format: formatName, Version: formatVersion, Store: StoreFast, Tool: "vmferry",
		Machine: Machine{Type: "pc-q35-10.0", PageSize: 4096},
		Blocks:  []BlockInfo{{Name: "pc.ram", Length: 1 << 20, Pages: 3}},
		Objects: []ObjectInfo{{"pages-000000", RolePages, 100, digest}, {"index", RoleIndex, 200, digest}, {"head", RoleHead, 30, digest}, {"devices", RoleDevices, 40, digest}},
		Totals:  Totals{Pages: 3, Zero: 253, Extents: 1, PageBytes: 100, IndexBytes: 200},
	}
}

// FuzzManifest reads any text, and the same text with a right digest.
func FuzzManifest(f *testing.F) {
	text, err := seedManifest().encode()
	if err != nil {
		f.Fatal(err)
	}
	body, _, _ := bytes.Cut(text, []byte(digestKey))
	addSeed(f, "whole", text)
	addSeed(f, "body", body)
	f.Fuzz(func(t *testing.T, body []byte) {
		checkManifest(t, body)
		sum := sha256.Sum256(body)
		checkManifest(t, fmt.Appendf(bytes.Clone(body), "%s%x\"\n}\n", digestKey, sum))
	})
}

func checkManifest(t *testing.T, text []byte) {
	t.Helper()
	m, err := decodeManifest(text)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) && !strings.Contains(err.Error(), "format version") {
			t.Errorf("got %v", err)
		}
		return
	}
	if _, err := m.Layout(); err != nil {
		t.Errorf("a manifest was taken whose layout is none: %v", err)
	}
	again, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeManifest(again); err != nil {
		t.Errorf("a manifest that was taken is not, once it is written again: %v", err)
	}
}

// repair makes an index's checksums right, so that what is fuzzed is behind
// them.
func repair(b []byte) {
	be := binary.BigEndian
	if len(b) < footerLen {
		return
	}
	footer := b[len(b)-footerLen:]
	copy(footer, indexMagic)
	be.PutUint32(footer[8:], formatVersion)
	count, dirAt := uint64(be.Uint32(footer[12:])), be.Uint64(footer[32:])
	if end := uint64(len(b)) - footerLen; count*dirEntryLen <= end && dirAt == end-count*dirEntryLen {
		dir := b[dirAt:end]
		for line := dir; len(line) > 0; line = line[dirEntryLen:] {
			if s := parseSegment(line); s.offset <= dirAt && uint64(s.length) <= dirAt-s.offset {
				be.PutUint32(line[24:], checksum(b[s.offset:s.offset+uint64(s.length)]))
			}
		}
		be.PutUint32(footer[40:], checksum(dir))
	}
	be.PutUint32(footer[60:], checksum(footer[:60]))
}

// FuzzIndex opens any bytes as an index, and looks everything up in it.
func FuzzIndex(f *testing.F) {
	sparse := []entry{{0, newLocation(0, 0)}, {1, newLocation(0, 1)}, {65535, newLocation(0, 2)}}
	l, objects, b := writeTestIndex(f, sparse, sparse)
	addSeed(f, "sparse", b)
	_, _, b = writeTestIndex(f, nil, nil)
	addSeed(f, "empty", b)
	var dense []entry
	for i := range sparseMax + 1 {
		dense = append(dense, entry{uint32(i * 30), newLocation(uint64(i/128), i%128)})
	}
	_, _, b = writeTestIndex(f, dense, nil)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		lookEverythingUp(t, b, l, objects)
		repair(b)
		lookEverythingUp(t, b, l, objects)
	})
}

func lookEverythingUp(t *testing.T, b []byte, l *guest.Layout, objects []ObjectInfo) {
	t.Helper()
	want := func(err error) bool {
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("got %v", err)
		}
		return err == nil
	}
	x, err := openIndex(t.Context(), memoryObject{bytes.NewReader(b)}, "index", l, objects)
	if !want(err) {
		return
	}
	for n := range x.table {
		_, err := x.extentPart(t.Context(), n)
		want(err)
	}
	for block := range l.Blocks {
		c, err := x.loadChunk(t.Context(), block, 0)
		if !want(err) || c == nil {
			continue
		}
		entries := c.entries(nil)
		if len(entries) != c.count {
			t.Fatalf("%d entries of %d", len(entries), c.count)
		}
		for _, e := range entries {
			if got := c.find(e.page); got != e.loc || e.loc.extent() >= x.extents {
				t.Fatalf("page %d is found at %#x, listed at %#x", e.page, uint64(got), uint64(e.loc))
			}
		}
	}
}

// FuzzExtent takes any payload apart as an extent of each codec.
func FuzzExtent(f *testing.F) {
	const size = 1024
	page := bytes.Repeat([]byte("page"), size/4)
	enc := deflate.NewEncoder(deflate.Fast)
	z := make([]byte, size)
	z = z[:enc.Deflate(z, page)]
	two := binary.BigEndian.AppendUint32(nil, uint32(len(z)))
	two = binary.BigEndian.AppendUint32(two, size)
	two = append(append(two, z...), page...)
	w := zstdEncoders.Get().(*zstd.Encoder)
	addSeed(f, "raw", byte(codecRaw), byte(1), page)
	addSeed(f, "deflate", byte(codecDeflate), byte(2), two)
	addSeed(f, "zstd", byte(codecZstd), byte(2), w.EncodeAll(append(bytes.Clone(page), page...), nil))
	d := newDecoder(size)
	f.Fuzz(func(t *testing.T, c, count byte, payload []byte) {
		if len(payload) > maxExtentLen(size) || count == 0 || int(count) > extentPages(size) {
			return // the index does not let it through
		}
		x, err := d.parse(extent{codec: codec(c % 3), count: count}, payload)
		if err != nil {
			return
		}
		dst := make([]byte, size)
		for slot := range int(count) {
			if p, err := d.page(&x, slot, dst); err == nil && len(p) != size {
				t.Errorf("slot %d has %d bytes", slot, len(p))
			}
		}
	})
}
