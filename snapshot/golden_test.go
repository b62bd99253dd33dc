package snapshot_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/testfiles"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store/storetest"
)

var update = flag.Bool("update", false, "write the golden files and the seeds of the fuzz targets anew")

// deflatedAs is a page of 4,096 times "a" as raw deflate. It is given here so
// that no encoder has a say in the golden file.
var deflatedAs, _ = hex.DecodeString("edc1010d000000c2a0acef5fc21e0e28000000e0dd00")

// TestWriter_FormatMatchesTheGoldenFile: a snapshot that was written once has to
// always be readable.
func TestWriter_FormatMatchesTheGoldenFile(t *testing.T) {
	l := newLayout(t, 4096, guest.Block{Name: "pc.ram", Length: 1 << 30}, guest.Block{Name: "vga.vram", Length: 16 * 4096})
	b := storetest.NewBucket()
	w := create(t, b, l, snapshot.Options{Tool: "vmferry golden"})
	lane := openLane(t, w).(guest.DeflatedLane)
	put := func(block int, offsets ...uint64) {
		lengths := make([]uint32, len(offsets))
		for i := range lengths {
			lengths[i] = uint32(len(deflatedAs))
		}
		if err := lane.PutDeflated(l.Blocks[block], offsets, lengths, bytes.Repeat(deflatedAs, len(offsets))); err != nil {
			t.Fatal(err)
		}
	}
	put(0, 0x2000, 0x1000, 256<<20, 1<<30-4096)
	put(1, 0xf000)
	if err := lane.Close(); err != nil {
		t.Fatal(err)
	}
	finish(t, w, l)
	if err := verifyAll(b); err != nil {
		t.Fatal(err)
	}
	testfiles.Golden(t, *update, "snapshot", describe(t, b))
}

// describe is a snapshot as one reads it.
func describe(t *testing.T, b *storetest.Bucket) string {
	t.Helper()
	var out strings.Builder
	for _, name := range b.Names() {
		data := b.Bytes(name)
		fmt.Fprintf(&out, "=== %s, %d bytes\n", name, len(data))
		switch name {
		case "manifest.json":
			// The time, and with it the digest, are another each time.
			text := regexp.MustCompile(`"created": "[^"]+"`).ReplaceAll(data, []byte(`"created": "2025-01-02T03:04:05Z"`))
			text = regexp.MustCompile(`"sha256": "[0-9a-f]{64}"\n}\n$`).ReplaceAll(text, []byte("\"sha256\": \"<digest of all before the comma>\"\n}\n"))
			out.Write(text)
		case "index":
			describeIndex(&out, data)
		default:
			out.WriteString(hex.Dump(data))
		}
	}
	return out.String()
}

func describeIndex(out *strings.Builder, data []byte) {
	be := binary.BigEndian
	x := takeApart(data)
	kinds := map[byte]string{1: "extents", 2: "sparse chunk", 3: "dense chunk"}
	for i, s := range x.segments {
		line := x.dir[i]
		fmt.Fprintf(out, "%s: block %d, part %d, at %d, %d bytes, %d entries, digest %x\n",
			kinds[line[0]], be.Uint16(line[2:]), be.Uint32(line[4:]), be.Uint64(line[8:]), be.Uint32(line[16:]), be.Uint32(line[20:]), line[32:])
		n := int(be.Uint32(line[20:]))
		for j := range n {
			if line[0] == 1 {
				e := x.extentLine(i, j)
				fmt.Fprintf(out, "  extent %d: object %d, block %d, codec %d, %d pages, at %d, %d bytes, key %d, digest %x\n",
					j, be.Uint32(e), be.Uint16(e[4:]), e[6], e[7], be.Uint64(e[8:]), be.Uint32(e[16:]), be.Uint16(e[20:]), e[32:])
				continue
			}
			loc := be.Uint64(s[2*n+8*j:])
			fmt.Fprintf(out, "  page %d: extent %d, slot %d\n", be.Uint16(s[2*j:]), loc>>8-1, loc&0xff)
		}
	}
	fmt.Fprintf(out, "footer\n%s", hex.Dump(x.footer))
}

// TestReader_Format1IsRead reads snapshots that a vmferry wrote before format 2: those that
// small makes.
func TestReader_Format1IsRead(t *testing.T) {
	for _, store := range stores {
		t.Run(string(store), func(t *testing.T) {
			b := storetest.NewBucket()
			dir := filepath.Join("testdata", "format1", string(store))
			files, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				data, err := os.ReadFile(filepath.Join(dir, f.Name()))
				if err != nil {
					t.Fatal(err)
				}
				b.Put(f.Name(), data)
			}
			if err := verifyAll(b); err != nil {
				t.Fatal(err)
			}
			_, m := small(t, store, 4096)
			r := open(t, b)
			m.check(t, r)
			if r.Manifest().Version != 1 || !r.DigestsVerified() {
				t.Errorf("version %d, digests verified: %v", r.Manifest().Version, r.DigestsVerified())
			}
		})
	}
}
