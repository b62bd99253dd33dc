package transcode

import (
	"fmt"
	"io"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/pagecodec"
)

// channel transcodes the packets of a multifd channel after its handshake.
type channel struct {
	id          int
	cfg         Config
	source      *multifd.Reader
	destination io.Writer

	pageSize int
	shown    bool // a packet has shown the page size
	header   multifd.Header
	count    uint64 // of packets
	packetIn multifd.Packet
	blocks   map[string]*guest.Block

	// The methods are set up for the first packet with data, when the page size is
	// known.
	receive  multifd.ReceiveState
	send     multifd.SendState
	pages    packetPages
	incoming multifd.Incoming
	batch    guest.Batch
	outgoing multifd.Outgoing

	copyBuffer []byte // for the data of device-state packets
}

func newChannel(source io.Reader, destination io.Writer, id int, cfg Config) *channel {
	return &channel{
		id: id, cfg: cfg, source: multifd.NewReader(source), destination: destination,
		pageSize: cfg.PageSize, header: make(multifd.Header, multifd.HeaderLen(guest.MinPageSize)),
		blocks: map[string]*guest.Block{},
	}
}

// close frees what the methods hold.
func (c *channel) close() {
	if c.receive != nil {
		c.receive.Cleanup()
	}
	if c.send != nil {
		c.send.Cleanup()
	}
}

// packet carries one packet. At the end of the channel it returns io.EOF.
func (c *channel) packet() error {
	// The header of a device-state packet is the shortest, so this never reads into a
	// payload or into the next packet.
	h := c.header[:devicestate.HeaderLen]
	n, err := c.source.Read(h)
	if n == 0 && err == io.EOF {
		return io.EOF
	}
	c.count++
	if err == nil || err == io.EOF {
		err = c.source.ReadFull(h[n:])
	}
	if err != nil {
		return c.inField("header", err)
	}
	if err := h.Check(); err != nil {
		return c.inPacket(err)
	}
	if h.Flags()&multifd.FlagDeviceState != 0 {
		return c.deviceState(h)
	}
	return c.ramPacket(h)
}

// ramPacket carries a RAM packet, of which h is the beginning of the header.
func (c *channel) ramPacket(h multifd.Header) error {
	if err := c.readPageSize(h); err != nil {
		return err
	}
	h = c.header[:multifd.HeaderLen(c.pageSize)]
	if err := c.source.ReadFull(h[devicestate.HeaderLen:]); err != nil {
		return c.inField("header", err)
	}
	p := &c.packetIn
	if err := h.Decode(p, c.pageSize); err != nil {
		return c.inPacket(err)
	}
	if err := c.checkMethod(p); err != nil {
		return err
	}
	method := c.cfg.Out.Flag()
	if len(p.Normal)+len(p.Zero) == 0 {
		if p.Flags&multifd.FlagMethods == 0 {
			method = 0
		}
		h.SetPayload(method, 0)
		return c.write(h)
	}
	if !c.shown {
		return c.malformed("pages_alloc", "0 in a packet of %d pages", len(p.Normal)+len(p.Zero))
	}
	if err := c.lookupBlock(h); err != nil {
		return err
	}
	if len(p.Normal) == 0 {
		h.SetPayload(method, 0) // QEMU's destination insists on 0 here
		return c.write(h)
	}
	if err := c.decode(); err != nil {
		return err
	}
	return c.encode(h)
}

// readPageSize reads the page size in a header, of which the fixed part has come.
func (c *channel) readPageSize(h multifd.Header) error {
	size, err := h.PageSize()
	if err != nil {
		return c.inPacket(err)
	}
	if size == 0 {
		return nil
	}
	if c.shown && size != c.pageSize {
		return c.malformed("pages_alloc", "it implies pages of %d bytes, but earlier packets had pages of %d bytes", size, c.pageSize)
	}
	c.pageSize, c.shown = size, true
	return nil
}

// checkMethod compares the packet's method with the source's. A packet without data may
// have none of the bits.
func (c *channel) checkMethod(p *multifd.Packet) error {
	bits := p.Flags & multifd.FlagMethods
	if bits == c.cfg.In.Flag() || bits == 0 && len(p.Normal) == 0 {
		return nil
	}
	return c.malformed("flags", "the source sends %v, but %s is to be decoded (give the source's multifd-compression)", bits, c.cfg.In.Name())
}

// lookupBlock sets the packet's RAM block. Each name makes a block, because a relay does
// not know the machine's.
func (c *channel) lookupBlock(h multifd.Header) error {
	name, err := h.BlockName()
	if err != nil {
		return c.inPacket(err)
	}
	if len(name) == 0 {
		return c.malformed("ramblock", "the name is empty")
	}
	block := c.blocks[string(name)]
	if block == nil {
		if len(c.blocks) == guest.MaxBlocks {
			return c.malformed("ramblock", "more than %d RAM blocks", guest.MaxBlocks)
		}
		block = &guest.Block{Name: string(name)}
		c.blocks[block.Name] = block
	}
	c.packetIn.Block = block
	return nil
}

// setup sets the methods up.
func (c *channel) setup() (err error) {
	if c.send != nil {
		return nil
	}
	cfg := multifd.ChannelConfig{Channel: c.id, PageSize: c.pageSize, Level: c.cfg.Level, Accelerator: c.cfg.Accelerator}
	if c.receive, err = c.cfg.In.SetupReceive(cfg); err != nil {
		return fmt.Errorf("multifd channel %d: setting up to decode %s: %w", c.id, c.cfg.In.Name(), err)
	}
	if c.send, err = c.cfg.Out.SetupSend(cfg); err != nil {
		return fmt.Errorf("multifd channel %d: setting up to encode %s: %w", c.id, c.cfg.Out.Name(), err)
	}
	c.pages = packetPages{buf: pagecodec.Prefaulted(guest.PacketBytes), size: c.pageSize}
	return nil
}

// decode reads the packet's payload into c.pages.
func (c *channel) decode() error {
	if err := c.setup(); err != nil {
		return err
	}
	c.incoming = multifd.Incoming{Packet: &c.packetIn, Lane: &c.pages, Payload: c.source}
	if err := c.receive.Receive(&c.incoming); err != nil {
		return c.inPacket(err)
	}
	return c.inPacket(c.receive.Flush())
}

// encode writes a packet with the pages of c.pages.
func (c *channel) encode(h multifd.Header) error {
	p := &c.packetIn
	c.batch = guest.Batch{Block: p.Block, Normal: p.Normal, Zero: p.Zero, Data: c.pages.pages}
	c.outgoing.Batch, c.outgoing.PayloadLen = &c.batch, 0
	c.outgoing.Payload = append(c.outgoing.Payload[:0], h)
	if err := c.send.Prepare(&c.outgoing); err != nil {
		return fmt.Errorf("multifd channel %d: packet %d: encoding %s: %w", c.id, c.count, c.cfg.Out.Name(), err)
	}
	h.SetPayload(c.cfg.Out.Flag(), uint32(c.outgoing.PayloadLen))
	whole := c.outgoing.Payload // WriteTo consumes the slice
	_, err := c.outgoing.Payload.WriteTo(c.destination)
	clear(whole)
	c.outgoing.Payload = whole[:0]
	return c.writing(err)
}

// deviceState carries a device-state packet as it is.
func (c *channel) deviceState(h multifd.Header) error {
	_, size, err := h.DeviceState()
	if err != nil {
		return c.inPacket(err)
	}
	if err := c.write(h); err != nil {
		return err
	}
	if c.copyBuffer == nil {
		c.copyBuffer = make([]byte, 64<<10)
	}
	for size > 0 {
		part := c.copyBuffer[:min(size, len(c.copyBuffer))]
		if err := c.source.ReadFull(part); err != nil {
			return c.inField("data", err)
		}
		if err := c.write(part); err != nil {
			return err
		}
		size -= len(part)
	}
	return nil
}

func (c *channel) write(b []byte) error {
	_, err := c.destination.Write(b)
	return c.writing(err)
}

func (c *channel) writing(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("multifd channel %d: packet %d: writing to the destination: %w", c.id, c.count, err)
}

// inPacket adds the channel and the packet to an error of package multifd.
func (c *channel) inPacket(err error) error { return multifd.InPacket(c.id, c.count, err) }

func (c *channel) inField(field string, err error) error {
	return &multifd.ChannelError{Channel: c.id, Packet: c.count, Field: field, Err: err}
}

func (c *channel) malformed(field, format string, args ...any) error {
	return c.inField(field, fmt.Errorf("%w: %s", multifd.ErrMalformed, fmt.Sprintf(format, args...)))
}

// packetPages is a lane that holds the pages of one packet.
type packetPages struct {
	buf   []byte
	size  int // of a page
	pages [][]byte
}

func (l *packetPages) Pages(_ *guest.Block, offsets []uint64) ([][]byte, error) {
	l.pages = l.pages[:0]
	for i := range offsets {
		l.pages = append(l.pages, l.buf[i*l.size:(i+1)*l.size])
	}
	return l.pages, nil
}

func (l *packetPages) Commit() error                     { return nil }
func (l *packetPages) Zero(*guest.Block, []uint64) error { return nil }
func (l *packetPages) Close() error                      { return nil }
