package qmp

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// mtree is what QEMU 10.0 prints of a q35 machine, shortened.
const mtree = `FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan

FlatView #1
 AS "cpu-smm-0", root: memory
 Root memory region: memory
  0000000000000000-00000000000bffff (prio 0, ram): pc.ram

FlatView #2
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
  00000000000c0000-00000000000c9fff (prio 0, rom): pc.ram @00000000000c0000
  0000000000100000-000000000fffffff (prio 0, ram): pc.ram @0000000000100000 KVM
  00000000c0000000-00000000c0ffffff (prio 1, ramd): 0000:3b:00.0 BAR 1 mmaps[0]
  00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram
  0000000100000000-000000013fffffff (prio 0, nv-ram): a b @0000000000000000
  0000000200000000-00000001ffffffff (prio 0, ram): backwards
  0000000000000000-ffffffffffffffff (prio 0, ram): everything
  0000000000001000-0000000000001fff (prio 0, ram): far @ffffffffffffffff

FlatView #3
 AS "mch", root: bus master container
  No rendered FlatView
`

func TestParsePhysicalRAM_TakesOnlyRAMOfTheMemoryView(t *testing.T) {
	want := []PhysicalRAM{
		{Size: 0xa0000, Block: "pc.ram"},
		{Start: 1 << 20, Size: 255 << 20, Block: "pc.ram", Offset: 1 << 20},
		{Start: 0xfd000000, Size: 16 << 20, Block: "vga.vram"},
		{Start: 4 << 30, Size: 1 << 30, Block: "a b"},
	}
	if diff := cmp.Diff(want, parsePhysicalRAM(mtree)); diff != "" {
		t.Error(diff)
	}
}

// dumpOf prints memory as QEMU does.
func dumpOf(mem []byte, addr uint64) string {
	var b strings.Builder
	for i := 0; i < len(mem); i += 16 {
		fmt.Fprintf(&b, "%016x: 0x%016x 0x%016x\r\n", addr+uint64(i), binary.LittleEndian.Uint64(mem[i:]), binary.LittleEndian.Uint64(mem[i+8:]))
	}
	return b.String()
}

func TestParseDump_RestoresTheBytes(t *testing.T) {
	mem := make([]byte, 4096)
	for i := range mem {
		mem[i] = byte(i * 7)
	}
	text := dumpOf(mem, 0x2000000)
	got := make([]byte, len(mem))
	if !parseDump(text, got) || string(got) != string(mem) {
		t.Error("the bytes are not those that were printed")
	}
	for name, bad := range map[string]string{
		"nothing":      "",
		"a hole":       "0000000050000000: Cannot access memory\r\n",
		"a line less":  text[:strings.LastIndex(text[:len(text)-2], "\r\n")+2],
		"a line more":  text + "0000000002001000: 0x0000000000000000 0x0000000000000000\r\n",
		"a large word": strings.Replace(text, ": 0x", ": 0x1", 1),
		"no prefix":    strings.Replace(text, ": 0x", ": ", 1),
		"no address":   strings.Replace(text, ": ", " ", 1),
	} {
		if parseDump(bad, got) {
			t.Errorf("%s is taken for a page", name)
		}
	}
}

func FuzzParsePhysicalRAM(f *testing.F) {
	f.Add(mtree)
	f.Add(" AS \"memory\", root: system\n  0000000000000000-ffffffffffffffff (prio 0, ram): x @ffffffffffffffff\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, r := range parsePhysicalRAM(text) {
			if r.Size == 0 || r.Start > math.MaxUint64-(r.Size-1) || r.Offset > math.MaxUint64-r.Size || r.Block == "" {
				t.Errorf("%+v", r)
			}
		}
	})
}

func FuzzParseDump(f *testing.F) {
	f.Add(dumpOf(make([]byte, 64), 0), 64)
	f.Add("0: 0x1 0x2", 8)
	f.Fuzz(func(t *testing.T, text string, length int) {
		dst := make([]byte, min(max(length, 0), 1<<16))
		if parseDump(text, dst) && strings.Count(text, "0x") < len(dst)/wordBytes {
			t.Errorf("%d bytes of %q", len(dst), text)
		}
	})
}
