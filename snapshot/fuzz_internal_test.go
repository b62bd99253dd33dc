package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
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
		Format: formatName, Version: newestVersion, Store: StoreFast, Tool: "vmferry",
		Machine: Machine{Type: "pc-q35-10.0", PageSize: 4096},
		Blocks:  []BlockInfo{{Name: "pc.ram", Length: 1 << 20, Pages: 3}},
		Objects: []ObjectInfo{
			{Name: "pages-000000", Role: RolePages, Size: 100 + partsLen(1), Parts: 1, BLAKE3: digest}, {Name: "index", Role: RoleIndex, Size: 200, BLAKE3: digest},
			{Name: "head", Role: RoleHead, Size: 30, BLAKE3: digest}, {Name: "devices", Role: RoleDevices, Size: 40, BLAKE3: digest},
		},
		Totals: Totals{Pages: 3, Zero: 253, Extents: 1, PageBytes: 100, IndexBytes: 200},
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
		checkManifest(t, fmt.Appendf(bytes.Clone(body), "%s%x%s", digestKey, sha256.Sum256(body), digestEnd))
	})
}

func checkManifest(t *testing.T, text []byte) {
	t.Helper()
	m, err := decodeManifest(text)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) && !strings.Contains(err.Error(), "format version") && !strings.Contains(err.Error(), "the snapshot requires") {
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

// repair makes an index's sums right, so that what is fuzzed is behind them. It returns the
// digest of the index.
func repair(version int, b []byte) string {
	be, f := binary.BigEndian, indexFormats[version]
	if len(b) < footerLen {
		return ""
	}
	footer := b[len(b)-footerLen:]
	copy(footer, f.magic)
	be.PutUint32(footer[8:], uint32(f.version))
	count, dirAt, size := uint64(be.Uint32(footer[12:])), be.Uint64(footer[32:]), uint64(f.segmentLen)
	end := uint64(len(b)) - footerLen
	if count*size > end || dirAt != end-count*size {
		return ""
	}
	dir := b[dirAt:end]
	for line := dir; len(line) > 0; line = line[size:] {
		if s := f.parseSegment(line); s.offset <= dirAt && uint64(s.length) <= dirAt-s.offset {
			sum := sumOf(version, b[s.offset:s.offset+uint64(s.length)])
			if version == version1 {
				copy(line[24:28], sum[:])
			} else {
				copy(line[32:64], sum[:])
			}
		}
	}
	if version == version1 {
		be.PutUint32(footer[40:], crc32.Checksum(dir, castagnoli))
		be.PutUint32(footer[60:], crc32.Checksum(footer[:60], castagnoli))
	}
	return digestOf(version, b[dirAt:])
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
		lookEverythingUp(t, newestVersion, "", b, l, objects)
		for _, version := range []int{version1, version2} {
			digest := repair(version, b)
			lookEverythingUp(t, version, digest, b, l, objects)
		}
	})
}

func lookEverythingUp(t *testing.T, version int, digest string, b []byte, l *guest.Layout, objects []ObjectInfo) {
	t.Helper()
	want := func(err error) bool {
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("got %v", err)
		}
		return err == nil
	}
	x, err := openIndex(t.Context(), memoryObject{bytes.NewReader(b)}, version, ObjectInfo{Name: "index", BLAKE3: digest}, l, objects)
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
