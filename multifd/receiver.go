package multifd

import (
	"errors"
	"fmt"
	"io"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/guest"
)

// Receiver reads one channel after its handshake. It is for use by one goroutine.
type Receiver struct {
	channel  int
	method   Method
	state    ReceiveState
	in       *Reader
	pageSize int
	layout   *guest.Layout
	header   Header
	packet   Packet
	count    uint64
	incoming Incoming
	budget   func(bytes int) error // for device states; nil is no bound
}

// NewReceiver sets up the method for the channel. Close frees what NewReceiver
// allocated.
func NewReceiver(r io.Reader, method Method, cfg ChannelConfig) (*Receiver, error) {
	if cfg.PageSize < guest.MinPageSize || cfg.PageSize > guest.MaxPageSize {
		return nil, fmt.Errorf("multifd channel %d: page size %d (want %d to %d)", cfg.Channel, cfg.PageSize, guest.MinPageSize, guest.MaxPageSize)
	}
	state, err := method.SetupReceive(cfg)
	if err != nil {
		return nil, fmt.Errorf("multifd channel %d: setting up to receive %s: %w", cfg.Channel, method.Name(), err)
	}
	return &Receiver{
		channel: cfg.Channel, method: method, state: state,
		in: NewReader(r), pageSize: cfg.PageSize, budget: cfg.StateBudget,
		header: make(Header, HeaderLen(cfg.PageSize)),
	}, nil
}

// Close frees what the method holds. It does not close the connection.
func (r *Receiver) Close() { r.state.Cleanup() }

// SetLayout sets the RAM blocks that packets name. Before the call, a packet with pages
// is malformed.
func (r *Receiver) SetLayout(l *guest.Layout) { r.layout = l }

// Count returns the number of packets whose header Next has begun to read.
func (r *Receiver) Count() uint64 { return r.count }

// Bytes returns the bytes read from the channel.
func (r *Receiver) Bytes() uint64 { return r.in.Total() }

// Next reads the header of a RAM packet, or a whole device-state packet. The RAM packet
// is valid until the next call of Next; Receive must read its pages before. If the
// channel ends between packets, the error is io.EOF.
func (r *Receiver) Next() (*Packet, *devicestate.Packet, error) {
	r.count++
	// The RAM header is the longest, so this never reads into a payload. What is read
	// beyond a shorter device-state packet stays pending.
	n, err := io.ReadAtLeast(r.in, r.header, prefixLen)
	if err != nil {
		if n == 0 && errors.Is(err, io.EOF) {
			return nil, nil, io.EOF
		}
		return nil, nil, r.fail(inField("header", truncated(err)))
	}
	if err := r.header.Check(); err != nil {
		return nil, nil, r.fail(err)
	}
	if r.header.Flags()&FlagDeviceState != 0 {
		d, err := r.deviceState(n)
		return nil, d, r.fail(err)
	}
	if err := r.in.ReadFull(r.header[n:]); err != nil {
		return nil, nil, r.fail(inField("header", err))
	}
	if err := r.packet.decode(r.header, r.pageSize, r.layout); err != nil {
		return nil, nil, r.fail(err)
	}
	return &r.packet, nil, r.fail(r.checkMethod())
}

// checkMethod compares the packet's method with the channel's. A packet without data
// may have none of the bits.
func (r *Receiver) checkMethod() error {
	bits := r.packet.Flags & FlagMethods
	if bits == r.method.Flag() || bits == 0 && len(r.packet.Normal) == 0 {
		return nil
	}
	return malformed("flags", "the source sends %v, but this side expects %s: set the same multifd-compression on both", bits, r.method.Name())
}

func (r *Receiver) deviceState(have int) (*devicestate.Packet, error) {
	if have < devicestate.HeaderLen {
		if err := r.in.ReadFull(r.header[have:devicestate.HeaderLen]); err != nil {
			return nil, inField("header", err)
		}
		have = devicestate.HeaderLen
	}
	p, size, err := r.header.DeviceState()
	if err != nil {
		return nil, err
	}
	extra := append([]byte(nil), r.header[devicestate.HeaderLen:have]...)
	r.in.pending = append(extra, r.in.pending...)
	take := r.budget
	if take == nil {
		take = func(int) error { return nil }
	}
	if err := take(devicestate.HeaderLen); err != nil {
		return nil, inField("size", err)
	}
	p.Data, err = devicestate.ReadData(r.in, size, take)
	return &p, inField("data", truncated(err))
}

// Receive reads the payload of the packet that Next returned and puts its pages into
// the lane.
func (r *Receiver) Receive(lane guest.Lane) error {
	p := &r.packet
	if len(p.Normal) > 0 {
		r.incoming = Incoming{Packet: p, Lane: lane, Payload: r.in}
		if err := r.state.Receive(&r.incoming); err != nil {
			return r.fail(err)
		}
	}
	if len(p.Zero) > 0 {
		return r.fail(inField("zero pages", lane.Zero(p.Block, p.Zero)))
	}
	return nil
}

// Flush returns when all pages that were received are in place. It must be called
// before a sync point is met.
func (r *Receiver) Flush() error { return r.fail(r.state.Flush()) }

// fail adds the channel, the packet and the field to err.
func (r *Receiver) fail(err error) error { return InPacket(r.channel, r.count, err) }
