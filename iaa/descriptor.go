package iaa

import "fmt"

// Opcode is the operation of a descriptor.
type Opcode uint8

// The operations that this package submits, and CRC64, which it only names.
const (
	OpNoop       Opcode = 0x00
	OpDrain      Opcode = 0x02
	OpDecompress Opcode = 0x42
	OpCompress   Opcode = 0x43
	OpCRC64      Opcode = 0x44
)

// String returns the operation's name in capitals.
func (o Opcode) String() string {
	switch o {
	case OpNoop:
		return "NOOP"
	case OpDrain:
		return "DRAIN"
	case OpDecompress:
		return "DECOMPRESS"
	case OpCompress:
		return "COMPRESS"
	case OpCRC64:
		return "CRC64"
	}
	return fmt.Sprintf("opcode %#02x", uint8(o))
}

// Flags are the operation flags, bits 23:0 of a descriptor's second word.
type Flags uint32

// Operation flags.
const (
	FlagFence             Flags = 1 << 0
	FlagBlockOnFault      Flags = 1 << 1
	FlagRecordValid       Flags = 1 << 2 // the completion record address is valid
	FlagRequestCompletion Flags = 1 << 3 // write the record on success too
	FlagCacheControl      Flags = 1 << 8
	FlagReadAECS          Flags = 1 << 16 // source 2 is an AECS to read
	FlagWriteSrc2Always   Flags = 1 << 18
	FlagWriteSrc2Overflow Flags = 2 << 18
	FlagToggleAECS        Flags = 1 << 22

	flagMask Flags = 1<<24 - 1
)

// CodecFlags are the compress or decompress flags at offset 0x26.
type CodecFlags uint16

// Compress flags.
const (
	CompressStatistics CodecFlags = 1 << 0 // write a histogram in place of a stream
	CompressFlush      CodecFlags = 1 << 1
	CompressEndBlock   CodecFlags = 1 << 2 // append the end-of-block symbol
	// CompressOnePassHeader asks a version 2 device to count the symbols, build
	// the tables and write a final dynamic block, all in one descriptor.
	CompressOnePassHeader CodecFlags = 3 << 12

	// CompressWhole is the value for one page into one finished deflate stream.
	CompressWhole = CompressFlush | CompressEndBlock
)

// Decompress flags.
const (
	DecompressEnable   CodecFlags = 1 << 0
	DecompressFlush    CodecFlags = 1 << 1
	DecompressStopEOB  CodecFlags = 1 << 2
	DecompressCheckEOB CodecFlags = 1 << 3
	DecompressFinalEOB CodecFlags = 1 << 4 // the two above mean the final block's

	// DecompressWhole is the value for one whole deflate stream.
	DecompressWhole = DecompressEnable | DecompressFlush | DecompressStopEOB |
		DecompressCheckEOB | DecompressFinalEOB
)

// DescriptorSize is the size in bytes of a descriptor and of a completion record.
const DescriptorSize = 64

// Descriptor is one job as the device reads it: 64 bytes, little-endian.
// Addresses are virtual addresses of the submitting process; sizes are bytes.
type Descriptor struct {
	Priv       uint32     // 0x00 pasid and privilege: the processor or kernel fills it, 0 here
	OpFlags    uint32     // 0x04 flags in bits 23:0, opcode in bits 31:24
	Record     uint64     // 0x08 completion record, aligned to 64
	Src1       uint64     // 0x10
	Dst        uint64     // 0x18
	Src1Size   uint32     // 0x20
	Interrupt  uint16     // 0x24 interrupt handle, 0: this package polls
	CodecFlags CodecFlags // 0x26
	Src2       uint64     // 0x28 AECS, aligned to 32
	MaxDst     uint32     // 0x30 bytes the destination may take
	Src2Size   uint32     // 0x34
	Filter     uint32     // 0x38 filter flags, or compression-2 flags
	Inputs     uint32     // 0x3c number of filter inputs
}

// Op returns the descriptor's opcode.
func (d *Descriptor) Op() Opcode { return Opcode(d.OpFlags >> 24) }

// Flags returns the descriptor's operation flags.
func (d *Descriptor) Flags() Flags { return Flags(d.OpFlags) & flagMask }

// SetOp sets opcode and operation flags.
func (d *Descriptor) SetOp(op Opcode, f Flags) {
	d.OpFlags = uint32(op)<<24 | uint32(f&flagMask)
}
