package multifd

import (
	"errors"
	"fmt"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/pagecodec"
)

// QPL carries each page as a raw deflate stream of its own. Intel's In-Memory
// Analytics Accelerator does the work if ChannelConfig has one, otherwise software.
var QPL Method = qplMethod{}

type qplMethod struct{}

func (qplMethod) Name() string   { return "qpl" }
func (qplMethod) Flag() Flags    { return FlagQPL }
func (qplMethod) Levels() Levels { return Levels{Least: 1, Most: LevelDense} }

// LevelDense is the level of qpl and uadk that asks for deflate.Dense.
const LevelDense = 2

func deflateMode(level int) deflate.Mode {
	if level >= LevelDense {
		return deflate.Dense
	}
	return deflate.Fast
}

func (qplMethod) SetupSend(cfg ChannelConfig) (SendState, error) {
	enc, err := cfg.Accelerator.NewEncoder(cfg.PageSize, deflateMode(cfg.Level))
	if err != nil {
		return nil, err
	}
	return &qplSend{perPageSend: newPerPageSend(cfg.PageSize), enc: enc}, nil
}

// qplSend deflates batches. With an encoder that overlaps, a batch is finished when
// the next one has been begun.
type qplSend struct {
	perPageSend
	enc   pagecodec.Encoder
	begun int // batches that were begun and not prepared
}

func (*qplSend) TakesDeflated() bool { return true }
func (s *qplSend) Overlaps() bool    { return s.enc.Overlaps() }
func (s *qplSend) Written()          { s.enc.Release() }

func (s *qplSend) Cleanup() {
	s.enc.Close()
	*s = qplSend{enc: s.enc}
}

// Begin starts on a batch of raw pages.
func (s *qplSend) Begin(b *guest.Batch) error {
	if err := s.enc.Begin(b.Data); err != nil {
		return err
	}
	s.begun++
	return nil
}

// Prepare finishes the batch that was begun first, or passes a deflated one on. A
// caller that does not call Begin and Written gets the same packets, one after the
// other.
func (s *qplSend) Prepare(out *Outgoing) error {
	s.begin(out)
	if out.Batch.Form == guest.Deflated {
		for i, data := range out.Batch.Data {
			s.add(out, i, data)
		}
		return nil
	}
	if s.begun == 0 {
		if err := s.Begin(out.Batch); err != nil {
			return err
		}
	}
	if err := s.enc.Finish(); err != nil {
		return err
	}
	s.begun--
	for i := range out.Batch.Data {
		s.add(out, i, s.enc.Stream(i, s.output(i)))
	}
	return nil
}

func (qplMethod) SetupReceive(cfg ChannelConfig) (ReceiveState, error) {
	dec, err := cfg.Accelerator.NewDecoder(cfg.PageSize)
	if err != nil {
		return nil, err
	}
	q := &qplReceive{dec: dec, pageSize: cfg.PageSize, bufs: make([]payloadBuffer, 1), lengths: make([]uint32, 0, guest.PacketPages(cfg.PageSize))}
	if dec.Overlaps() { // one is read into while the decoder works on the other
		q.bufs = make([]payloadBuffer, 2)
	}
	for i := range q.bufs {
		if q.bufs[i], err = dec.Buffer(maxPayload); err != nil {
			q.Cleanup()
			return nil, err
		}
	}
	return q, nil
}

// qplReceive inflates packets. If the decoder overlaps and the lane's memory stays
// (guest memory), a packet is inflated while the next is read from the socket.
type qplReceive struct {
	dec      pagecodec.Decoder
	pageSize int
	bufs     []payloadBuffer
	turn     int // the buffer for the next payload
	lengths  []uint32

	begun   [2]packetPages // packets that are being inflated, in order
	waiting int            // of them
}

func (q *qplReceive) Cleanup() {
	q.dec.Close()
	*q = qplReceive{dec: q.dec}
}

func (q *qplReceive) Receive(in *Incoming) error {
	payload, err := q.bufs[q.turn].read(in)
	if err != nil {
		return err
	}
	q.turn = (q.turn + 1) % len(q.bufs)
	p := in.Packet
	lengths, data, err := pageLengths(q.lengths[:0], payload, len(p.Normal), q.pageSize)
	if err != nil {
		return err
	}
	if lane, ok := in.Lane.(guest.DeflatedLane); ok && lane.KeepsDeflated() {
		return q.keep(p, lane, lengths, data)
	}
	pages, err := in.Lane.Pages(p.Block, p.Normal)
	if err != nil {
		return inField("placing pages", err)
	}
	q.begun[q.waiting].set(p)
	if err := q.dec.Begin(lengths, data, pages); err != nil {
		return q.begun[q.waiting].fail("", err)
	}
	q.waiting++
	if err := q.finishDue(in.Lane); err != nil {
		return err
	}
	return inField("keeping pages", in.Lane.Commit())
}

// keep passes the pages on deflated, after it has checked that each inflates: later,
// when the source is gone, an error would come too late.
func (q *qplReceive) keep(p *Packet, lane guest.DeflatedLane, lengths []uint32, data []byte) error {
	if err := q.Flush(); err != nil {
		return err
	}
	if err := q.dec.Check(lengths, data); err != nil {
		q.begun[0].set(p)
		return q.begun[0].fail("", err)
	}
	return inField("keeping pages", lane.PutDeflated(p.Block, p.Normal, lengths, data))
}

// finishDue finishes the packets that cannot wait: all but the last, and the last
// too unless its pages may be filled after Commit.
func (q *qplReceive) finishDue(lane guest.Lane) error {
	if stable, ok := lane.(guest.StableLane); !q.dec.Overlaps() || !ok || !stable.Stable() {
		return q.Flush()
	}
	if q.waiting < len(q.begun) {
		return nil
	}
	return q.finish()
}

// Flush returns when all that was received is in place.
func (q *qplReceive) Flush() error {
	for q.waiting > 0 {
		if err := q.finish(); err != nil {
			return err
		}
	}
	return nil
}

// finish finishes the oldest packet.
func (q *qplReceive) finish() error {
	err := q.dec.Finish()
	q.begun[0], q.begun[1] = q.begun[1], q.begun[0]
	q.waiting--
	if err == nil {
		return nil
	}
	oldest := &q.begun[1]
	return oldest.fail(fmt.Sprintf("packet %d, ", oldest.num), err)
}

// packetPages are the offsets of a packet's pages, for errors that come after the next
// packet was read.
type packetPages struct {
	num    uint64
	block  string
	normal []uint64
}

func (p *packetPages) set(of *Packet) {
	p.num, p.block, p.normal = of.Num, of.Block.Name, append(p.normal[:0], of.Normal...)
}

// fail names the page that is malformed, or the packet that the decoder failed at.
func (p *packetPages) fail(prefix string, err error) error {
	var page *pagecodec.PageError
	if !errors.As(err, &page) {
		return inField(fmt.Sprintf("inflating packet %d (RAM block %q from %#x)", p.num, p.block, p.normal[0]), err)
	}
	return malformedPage(prefix, p.block, p.normal, page.Page, page.Err)
}
