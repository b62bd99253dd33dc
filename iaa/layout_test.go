package iaa

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"github.com/vmferry/vmferry/iaa/internal/deflate"
)

func TestDescriptor_Layout(t *testing.T) {
	var d Descriptor
	if unsafe.Sizeof(d) != DescriptorSize {
		t.Errorf("descriptor has %d bytes", unsafe.Sizeof(d))
	}
	for name, f := range map[string][2]uintptr{
		"Priv": {unsafe.Offsetof(d.Priv), 0x00}, "OpFlags": {unsafe.Offsetof(d.OpFlags), 0x04},
		"Record": {unsafe.Offsetof(d.Record), 0x08}, "Src1": {unsafe.Offsetof(d.Src1), 0x10},
		"Dst": {unsafe.Offsetof(d.Dst), 0x18}, "Src1Size": {unsafe.Offsetof(d.Src1Size), 0x20},
		"Interrupt": {unsafe.Offsetof(d.Interrupt), 0x24}, "CodecFlags": {unsafe.Offsetof(d.CodecFlags), 0x26},
		"Src2": {unsafe.Offsetof(d.Src2), 0x28}, "MaxDst": {unsafe.Offsetof(d.MaxDst), 0x30},
		"Src2Size": {unsafe.Offsetof(d.Src2Size), 0x34}, "Filter": {unsafe.Offsetof(d.Filter), 0x38},
		"Inputs": {unsafe.Offsetof(d.Inputs), 0x3c},
	} {
		if f[0] != f[1] {
			t.Errorf("%s at %#x, want %#x", name, f[0], f[1])
		}
	}
	d.SetOp(OpDecompress, FlagRecordValid|FlagRequestCompletion)
	if d.OpFlags != 0x4200000c || d.Op() != OpDecompress || d.Flags() != 0xc {
		t.Errorf("opcode and flags: %#x", d.OpFlags)
	}
}

func TestRecord_Layout(t *testing.T) {
	var r Record
	if unsafe.Sizeof(r) != DescriptorSize {
		t.Errorf("record has %d bytes", unsafe.Sizeof(r))
	}
	for name, f := range map[string][2]uintptr{
		"word": {unsafe.Offsetof(r.word), 0x00}, "BytesCompleted": {unsafe.Offsetof(r.BytesCompleted), 0x04},
		"FaultAddr": {unsafe.Offsetof(r.FaultAddr), 0x08}, "InvalidFlags": {unsafe.Offsetof(r.InvalidFlags), 0x10},
		"OutputSize": {unsafe.Offsetof(r.OutputSize), 0x18}, "OutputBits": {unsafe.Offsetof(r.OutputBits), 0x1c},
		"XOR": {unsafe.Offsetof(r.XOR), 0x1e}, "CRC": {unsafe.Offsetof(r.CRC), 0x20},
		"Min": {unsafe.Offsetof(r.Min), 0x24}, "Max": {unsafe.Offsetof(r.Max), 0x28}, "Sum": {unsafe.Offsetof(r.Sum), 0x2c},
	} {
		if f[0] != f[1] {
			t.Errorf("%s at %#x, want %#x", name, f[0], f[1])
		}
	}
	r.Store(Completion{StatusAnalyticsError, CodeOutputOverflow, 3})
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&r)), DescriptorSize)
	if raw[0] != 0x0a || raw[1] != 0x19 || raw[2] != 3 {
		t.Errorf("first word: % x", raw[:4])
	}
	if c := r.Load(); c != (Completion{StatusAnalyticsError, CodeOutputOverflow, 3}) {
		t.Errorf("loaded %+v", c)
	}
	for i := range raw {
		if i < 0x14 || i >= 0x18 && i < 0x30 && i != 0x1d {
			raw[i] = 0xff
		}
	}
	r.clear()
	for i, b := range raw {
		if b != 0 {
			t.Errorf("byte %#x is %#x after clear", i, b)
		}
	}
}

func TestDescriptor_FlagValues(t *testing.T) {
	for name, f := range map[string][2]uint32{
		"cache control":   {uint32(FlagCacheControl), 0x100},
		"read AECS":       {uint32(FlagReadAECS), 0x10000},
		"write always":    {uint32(FlagWriteSrc2Always), 0x40000},
		"write overflow":  {uint32(FlagWriteSrc2Overflow), 0x80000},
		"toggle":          {uint32(FlagToggleAECS), 0x400000},
		"compress whole":  {uint32(CompressWhole), 0x06},
		"inflate whole":   {uint32(DecompressWhole), 0x1f},
		"one-pass header": {uint32(CompressOnePassHeader), 0x3000},
	} {
		if f[0] != f[1] {
			t.Errorf("%s is %#x, want %#x", name, f[0], f[1])
		}
	}
}

func TestAECS_Fixed(t *testing.T) {
	aecs := make([]byte, AECSSize)
	for i := range aecs {
		aecs[i] = 0xee
	}
	writeFixedAECS(aecs)
	u32 := func(off int) uint32 { return binary.LittleEndian.Uint32(aecs[off:]) }
	if aecs[AECSAccumulator] != 3 || u32(AECSValidBits) != 3 {
		t.Errorf("accumulator %#x with %d valid bits, want 0x3 with 3", aecs[AECSAccumulator], u32(AECSValidBits))
	}
	for s := range deflate.NumLitLen {
		want := uint32(0)
		switch {
		case s < 144:
			want = 0x40030 + uint32(s)
		case s < 256:
			want = 0x48190 + uint32(s-144)
		case s < 280:
			want = 0x38000 + uint32(s-256)
		default:
			want = 0x400c0 + uint32(s-280)
		}
		if got := u32(AECSLitLen + 4*s); got != want {
			t.Errorf("literal/length symbol %d: %#x, want %#x", s, got, want)
		}
	}
	for s := range deflate.NumDist {
		if got, want := u32(AECSDist+4*s), 0x28000+uint32(s); got != want {
			t.Errorf("distance symbol %d: %#x, want %#x", s, got, want)
		}
	}
	for _, off := range []int{0, 4, AECSLitLen + 4*286, AECSDist + 4*30, AECSSize - 4} {
		if u32(off) != 0 {
			t.Errorf("%#x at %#x, want 0", u32(off), off)
		}
	}
	if AECSSize%32 != 0 || tablesSize%64 != 0 {
		t.Errorf("AECS of %d, tables of %d bytes are not aligned", AECSSize, tablesSize)
	}
}

func TestAECS_DynamicChecksTheHistogram(t *testing.T) {
	histogram := make([]byte, HistogramSize)
	binary.LittleEndian.PutUint32(histogram[4*'a':], 5000)
	if _, err := writeDynamicAECS(make([]byte, AECSSize), histogram, 4096); err == nil {
		t.Error("5000 symbols in 4096 bytes accepted")
	}
	binary.LittleEndian.PutUint32(histogram[4*'a':], 1)
	if dynamic, err := writeDynamicAECS(make([]byte, AECSSize), histogram, 4096); dynamic || err != nil {
		t.Errorf("one literal: dynamic %v, error %v; the header alone is larger than a fixed block", dynamic, err)
	}
}
