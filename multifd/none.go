package multifd

// None carries pages uncompressed: normal_pages x page_size bytes.
var None Method = noneMethod{}

type noneMethod struct{}

func (noneMethod) Name() string   { return "none" }
func (noneMethod) Flag() Flags    { return 0 }
func (noneMethod) Levels() Levels { return Levels{} }

func (noneMethod) SetupSend(ChannelConfig) (SendState, error) { return noneSend{}, nil }

func (noneMethod) SetupReceive(cfg ChannelConfig) (ReceiveState, error) {
	return noneReceive{pageSize: cfg.PageSize}, nil
}

type noneSend struct{}

func (noneSend) TakesDeflated() bool { return false }
func (noneSend) Cleanup()            {}

func (noneSend) Prepare(out *Outgoing) error {
	for _, page := range out.Batch.Data {
		out.PayloadLen += len(page)
	}
	out.Payload = append(out.Payload, out.Batch.Data...)
	return nil
}

type noneReceive struct{ pageSize int }

func (noneReceive) Cleanup()     {}
func (noneReceive) Flush() error { return nil }

// Receive reads the pages into the lane's memory with readv.
func (r noneReceive) Receive(in *Incoming) error {
	p := in.Packet
	if want := uint64(len(p.Normal)) * uint64(r.pageSize); uint64(p.PayloadLen) != want {
		return malformed("next_packet_size", "%d for %d pages of %d bytes", p.PayloadLen, len(p.Normal), r.pageSize)
	}
	pages, err := in.Lane.Pages(p.Block, p.Normal)
	if err != nil {
		return inField("placing pages", err)
	}
	if err := in.Payload.ReadVectors(pages); err != nil {
		return inField("page data", err)
	}
	return inField("keeping pages", in.Lane.Commit())
}
