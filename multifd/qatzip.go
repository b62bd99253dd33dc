package multifd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
)

// QATzip carries each packet's pages as gzip members end to end, each with the extra
// field that Intel's QATzip needs. QuickAssist devices do this work; here software
// does. A packet does not depend on earlier ones.
var QATzip Method = qatzipMethod{}

type qatzipMethod struct{}

func (qatzipMethod) Name() string   { return "qatzip" }
func (qatzipMethod) Flag() Flags    { return FlagQATzip }
func (qatzipMethod) Levels() Levels { return Levels{Least: 1, Most: 9} }

// The member's header, as recorded from QATzip: ID, deflate, FEXTRA, no time,
// fastest, unknown system; 12 bytes of extra: subfield "QZ" of 8 bytes, which
// are little-endian u32 of the source's and of the deflated data's length.
const qatzipHeaderLen = 24

var qatzipHeader = []byte{0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 4, 0xff, 12, 0, 'Q', 'Z', 8, 0}

func (qatzipMethod) SetupSend(cfg ChannelConfig) (SendState, error) {
	level := cfg.Level
	if level == 0 {
		level = flate.BestSpeed
	}
	s := &qatzipSend{page: make([]byte, cfg.PageSize)}
	s.out.b = newPayloadBuffer()[:0]
	w, err := flate.NewWriter(&s.out, level)
	if err != nil {
		return nil, err
	}
	s.w = w
	return s, nil
}

type qatzipSend struct {
	w    *flate.Writer
	out  vectorBuffer
	page []byte
}

func (*qatzipSend) TakesDeflated() bool { return false }
func (s *qatzipSend) Cleanup()          { *s = qatzipSend{} }

func (s *qatzipSend) Prepare(out *Outgoing) error {
	s.out.b = append(s.out.b[:0], qatzipHeader...)
	s.out.b = append(s.out.b, make([]byte, qatzipHeaderLen-len(qatzipHeader))...)
	s.w.Reset(&s.out)
	var crc, size uint32
	for _, live := range out.Batch.Data {
		// The checksum and the compressor must see the same bytes.
		page := s.page[:copy(s.page, live)]
		crc = crc32.Update(crc, crc32.IEEETable, page)
		size += uint32(len(page))
		if _, err := s.w.Write(page); err != nil {
			return err
		}
	}
	if err := s.w.Close(); err != nil {
		return err
	}
	le := binary.LittleEndian
	le.PutUint32(s.out.b[16:], size)
	le.PutUint32(s.out.b[20:], uint32(len(s.out.b)-qatzipHeaderLen))
	s.out.b = le.AppendUint32(s.out.b, crc)
	s.out.b = le.AppendUint32(s.out.b, size)
	out.Payload = append(out.Payload, s.out.b)
	out.PayloadLen, out.Compressed = len(s.out.b), len(out.Batch.Data)
	return nil
}

func (qatzipMethod) SetupReceive(ChannelConfig) (ReceiveState, error) {
	return &qatzipReceive{buf: newPayloadBuffer(), r: new(gzip.Reader)}, nil
}

type qatzipReceive struct {
	buf payloadBuffer
	src bytes.Reader
	r   *gzip.Reader
}

func (q *qatzipReceive) Cleanup()     { *q = qatzipReceive{} }
func (q *qatzipReceive) Flush() error { return nil }

func (q *qatzipReceive) Receive(in *Incoming) error {
	payload, err := q.buf.read(in)
	if err != nil {
		return err
	}
	q.src.Reset(payload)
	if err := q.r.Reset(&q.src); err != nil {
		return inField("gzip header", fmt.Errorf("%w: %w", ErrMalformed, err))
	}
	if err := receivePages(in, q.r); err != nil {
		return err
	}
	var extra [1]byte
	if n, err := q.r.Read(extra[:]); n != 0 || err != io.EOF {
		if err == nil || err == io.EOF {
			err = io.ErrShortBuffer
		}
		return inField("payload", fmt.Errorf("%w: after the packet's pages: %w", ErrMalformed, err))
	}
	return nil
}
