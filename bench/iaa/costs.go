package main

import (
	"context"
	"errors"
	"time"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/iaa/iaamodel"
	"github.com/vmferry/vmferry/internal/corpus"
	"github.com/vmferry/vmferry/internal/probe"
	iaaprobe "github.com/vmferry/vmferry/internal/probe/iaa"
)

// charged is a codec whose work takes a fixed time on a virtual clock.
type charged struct {
	hybrid.Codec
	clock             *iaamodel.Clock
	compress, inflate time.Duration
}

func (c *charged) Deflate(dst, page []byte) int {
	n := c.Codec.Deflate(dst, page)
	c.clock.Sleep(c.compress)
	return n
}

func (c *charged) Inflate(dst, src []byte) error {
	err := c.Codec.Inflate(dst, src)
	c.clock.Sleep(c.inflate)
	return err
}

// noCodec is a codec for runs that must not use software.
type noCodec struct{}

func (noCodec) Deflate(_, _ []byte) int   { return 0 }
func (noCodec) Inflate(_, _ []byte) error { return errors.New("iaa: no software path") }

// driverCost measures the time of the driver for a job. It uses a device that completes each
// job when the driver submits it.
func driverCost(ctx context.Context) (cost time.Duration, err error) {
	null, opts, err := newNullSystem()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, null.remove()) }()
	dev, err := iaa.Open(ctx, opts)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	ch, err := hybrid.NewChannel(dev, hybrid.Config{Pages: iaaprobe.PacketPages, PageSize: iaaprobe.PageSize, Codec: noCodec{}})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, ch.Close(ctx)) }()
	mem, err := dev.NewMemory(iaaprobe.PacketPages*iaaprobe.PageSize, iaa.PrefaultTouch)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, mem.Free()) }()
	packet := iaaprobe.Split(mem.Bytes())
	for i := range packet {
		corpus.Fill(packet[i], corpus.Text, uint64(i))
	}
	const packets = 100
	cost = probe.Fastest(5, func() {
		for range packets {
			p, e := ch.Compress(packet)
			if e == nil {
				e = p.Finish(ctx)
			}
			if e != nil {
				err = e
				return
			}
			p.Release()
		}
	})
	return cost / (packets * iaaprobe.PacketPages), err
}
