package multifd

import (
	"encoding/binary"
	"fmt"
	"hash/adler32"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
)

// UADK carries each page as a zlib stream of its own, in the framing of qpl.
// HiSilicon's accelerator does this work; here software does.
var UADK Method = uadkMethod{}

type uadkMethod struct{}

func (uadkMethod) Name() string   { return "uadk" }
func (uadkMethod) Flag() Flags    { return FlagUADK }
func (uadkMethod) Levels() Levels { return Levels{Least: 1, Most: LevelDense} }

// A zlib stream is two bytes of header, raw deflate and four of Adler-32.
const zlibHeaderLen, zlibTrailerLen = 2, 4

func (uadkMethod) SetupSend(cfg ChannelConfig) (SendState, error) {
	return &uadkSend{
		perPageSend: newPerPageSend(cfg.PageSize), enc: deflate.NewEncoder(deflateMode(cfg.Level)), page: make([]byte, cfg.PageSize),
	}, nil
}

type uadkSend struct {
	perPageSend
	enc  *deflate.Encoder
	page []byte
}

func (*uadkSend) TakesDeflated() bool { return false }
func (s *uadkSend) Cleanup()          { *s = uadkSend{} }

func (s *uadkSend) Prepare(out *Outgoing) error {
	s.begin(out)
	for i, page := range out.Batch.Data {
		dst := s.output(i)
		room := dst[zlibHeaderLen : len(dst)-zlibTrailerLen]
		// The checksum and the encoder must see the same bytes.
		stable := s.page[:copy(s.page, page)]
		if n := s.enc.Deflate(room, stable); n > 0 {
			dst[0], dst[1] = 0x78, 0x01 // deflate, window of 32 KiB, fastest
			binary.BigEndian.PutUint32(dst[zlibHeaderLen+n:], adler32.Checksum(stable))
			page = dst[:zlibHeaderLen+n+zlibTrailerLen]
		}
		s.add(out, i, page)
	}
	return nil
}

func (uadkMethod) SetupReceive(cfg ChannelConfig) (ReceiveState, error) {
	return &uadkReceive{
		buf: newPayloadBuffer(), pageSize: cfg.PageSize, dec: deflate.NewDecoder(),
		lengths: make([]uint32, 0, guest.PacketPages(cfg.PageSize)),
	}, nil
}

type uadkReceive struct {
	buf      payloadBuffer
	pageSize int
	dec      *deflate.Decoder
	lengths  []uint32
}

func (u *uadkReceive) Cleanup()     { *u = uadkReceive{} }
func (u *uadkReceive) Flush() error { return nil }

func (u *uadkReceive) Receive(in *Incoming) error {
	payload, err := u.buf.read(in)
	if err != nil {
		return err
	}
	lengths, data, err := pageLengths(u.lengths[:0], payload, len(in.Packet.Normal), u.pageSize)
	if err != nil {
		return err
	}
	pages, err := in.Lane.Pages(in.Packet.Block, in.Packet.Normal)
	if err != nil {
		return inField("placing pages", err)
	}
	for i, length := range lengths {
		if err := u.inflate(pages[i], data[:length]); err != nil {
			return malformedPage("", in.Packet.Block.Name, in.Packet.Normal, i, err)
		}
		data = data[length:]
	}
	return inField("keeping pages", in.Lane.Commit())
}

func (u *uadkReceive) inflate(page, z []byte) error {
	if len(z) == len(page) {
		copy(page, z)
		return nil
	}
	if len(z) < zlibHeaderLen+zlibTrailerLen {
		return fmt.Errorf("a zlib stream of %d bytes (want %d or more)", len(z), zlibHeaderLen+zlibTrailerLen)
	}
	// Method 8, a window of at most 32 KiB, no preset dictionary, and the
	// check of the two bytes.
	if head := binary.BigEndian.Uint16(z); head>>8&0xf != 8 || head>>12 > 7 || head&0x20 != 0 || head%31 != 0 {
		return fmt.Errorf("invalid zlib header %#04x", head)
	}
	end := len(z) - zlibTrailerLen
	if err := u.dec.Inflate(page, z[zlibHeaderLen:end]); err != nil {
		return err
	}
	if got, want := adler32.Checksum(page), binary.BigEndian.Uint32(z[end:]); got != want {
		return fmt.Errorf("Adler-32 of the page is %#08x, want %#08x as in the stream", got, want)
	}
	return nil
}
