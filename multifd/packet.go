package multifd

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/vmferry/vmferry/guest"
)

// Flags is the flags word of a packet.
type Flags uint32

// The flags of a packet. The five bits of FlagMethods hold the method.
const (
	FlagSync        Flags = 0x01
	FlagZlib        Flags = 0x02
	FlagZstd        Flags = 0x04
	FlagQPL         Flags = 0x08
	FlagUADK        Flags = 0x10
	FlagQATzip      Flags = 0x20
	FlagMethods     Flags = 0x3e
	FlagDeviceState Flags = 0x40
)

func (f Flags) String() string {
	var names []string
	for _, n := range []struct {
		f    Flags
		name string
	}{{FlagSync, "SYNC"}, {FlagZlib, "zlib"}, {FlagZstd, "zstd"}, {FlagQPL, "qpl"}, {FlagUADK, "uadk"}, {FlagQATzip, "qatzip"}, {FlagDeviceState, "DEVICE_STATE"}} {
		if f&n.f != 0 {
			names = append(names, n.name)
			f &^= n.f
		}
	}
	if f != 0 {
		names = append(names, fmt.Sprintf("%#x", uint32(f)))
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, "|")
}

const (
	// prefixLen is the length of what RAM and device-state packets have in common:
	// magic, version, flags.
	prefixLen  = 12
	offsetsAt  = 320
	ramBlockAt = 64
	nameLen    = 256
)

// HeaderLen returns the length of a RAM packet's header in bytes: 1344 for 4 KiB pages.
func HeaderLen(pageSize int) int { return offsetsAt + 8*guest.PacketPages(pageSize) }

// Packet is the header of a RAM packet.
//
//	0 u32 magic    4 u32 version   8 u32 flags    12 u32 pages_alloc
//	16 u32 normal_pages   20 u32 next_packet_size   24 u64 packet_num
//	32 u32 zero_pages     36 unused    64 u8[256] ramblock    320 u64 offsets
type Packet struct {
	Flags Flags
	// Num is the packet's number; the source numbers the packets of all channels
	// together.
	Num uint64
	// Block is nil in a packet without pages.
	Block *guest.Block
	// Normal are the offsets of the pages with data in the payload, Zero the offsets of
	// zero pages.
	Normal, Zero []uint64
	// PayloadLen is the length of the method's payload in bytes: next_packet_size.
	PayloadLen uint32
}

// Sync reports whether the packet marks a sync point.
func (p *Packet) Sync() bool { return p.Flags&FlagSync != 0 }

// decode reads a header of HeaderLen bytes, whose magic and version are checked
// already. layout may be nil as long as no packet has pages. decode reuses p's slices.
func (p *Packet) decode(h Header, pageSize int, layout *guest.Layout) error {
	if flags := h.Flags(); flags&^(FlagSync|FlagMethods) != 0 {
		return malformed("flags", "%v has bits that are undefined for a RAM packet", flags)
	}
	if err := h.Decode(p, pageSize); err != nil {
		return err
	}
	pages := len(p.Normal) + len(p.Zero)
	if pages == 0 {
		return nil
	}
	if layout == nil {
		return malformed("normal_pages", "%d pages came before the main channel named the RAM blocks", pages)
	}
	name, err := h.BlockName()
	if err != nil {
		return err
	}
	if p.Block = layout.Lookup(name); p.Block == nil {
		return malformed("ramblock", "no RAM block is called %q", name)
	}
	if err := checkOffsets(layout, p.Block, p.Normal, 0); err != nil {
		return err
	}
	return checkOffsets(layout, p.Block, p.Zero, len(p.Normal))
}

// checkOffsets checks that offsets, of which the first is offset[first] of the packet,
// are pages of the block.
func checkOffsets(layout *guest.Layout, block *guest.Block, offsets []uint64, first int) error {
	for i, off := range offsets {
		if err := layout.CheckOffset(block, off); err != nil {
			return inField(fmt.Sprintf("offset[%d]", first+i), fmt.Errorf("%w: %w", ErrMalformed, err))
		}
	}
	return nil
}

// encode writes the header to h, HeaderLen bytes long.
func (p *Packet) encode(h []byte, pageSize int) {
	be := binary.BigEndian
	clear(h)
	be.PutUint32(h[0:], Magic)
	be.PutUint32(h[4:], Version)
	be.PutUint32(h[8:], uint32(p.Flags))
	be.PutUint32(h[12:], uint32(guest.PacketPages(pageSize)))
	be.PutUint32(h[16:], uint32(len(p.Normal)))
	be.PutUint32(h[20:], p.PayloadLen)
	be.PutUint64(h[24:], p.Num)
	be.PutUint32(h[32:], uint32(len(p.Zero)))
	if p.Block != nil {
		copy(h[ramBlockAt:ramBlockAt+nameLen-1], p.Block.Name)
	}
	at := offsetsAt
	for _, off := range p.Normal {
		be.PutUint64(h[at:], off)
		at += 8
	}
	for _, off := range p.Zero {
		be.PutUint64(h[at:], off)
		at += 8
	}
}
