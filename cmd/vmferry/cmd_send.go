package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
)

type sendCmd struct {
	Connect        string `required:"" help:"Where the destination listens: unix:PATH or tcp:HOST:PORT." placeholder:"ADDRESS"`
	wireFlags      `embed:""`
	tlsFlags       `embed:""`
	iaaFlags       `embed:""`
	stallFlags     `embed:""`
	AllZero        bool          `help:"Send a record of every zero page: for a destination whose memory is not fresh."`
	Bandwidth      byteSize      `default:"0" help:"Bytes a second on the wire at most, such as 100MiB; 0 is no bound." placeholder:"SIZE"`
	ConnectTimeout time.Duration `default:"10s" help:"For how long a destination that does not listen yet is tried again; 0 tries once." placeholder:"TIME"`
	NoReturnPath   bool          `help:"Do not ask the destination how it went."`
	JSON           bool          `name:"json" help:"Write progress and result as lines of JSON."`
	Snapshot       string        `arg:"" help:"Snapshot to send."`
}

func (c *sendCmd) Run(a *app) error {
	method, err := c.sending()
	if err != nil {
		return err
	}
	addr, err := address("connect", c.Connect)
	if err != nil {
		return err
	}
	secure, err := c.config(addr, false)
	if err != nil {
		return err
	}
	c.warn(a, addr)
	acc, err := c.accelerator(a, method, "")
	if err != nil {
		return err
	}
	defer acc.Close()
	r, err := openSnapshot(a.ctx, c.Snapshot)
	if err != nil {
		return err
	}
	defer r.Close()
	began := time.Now()
	p := a.newProgress(c.JSON)
	defer p.end()
	var counts migration.Counters
	total := r.Manifest().Totals.Pages
	stop := every(200*time.Millisecond, func() {
		p.show(int64(counts.Normal.Load()), int64(total), fmt.Sprintf("%d of %d pages, %s sent", counts.Normal.Load(), total, size(counts.Bytes.Load())),
			map[string]any{"sent_bytes": counts.Bytes.Load(), "normal_pages": counts.Normal.Load(), "total_pages": total})
	})
	defer stop()
	dial := func(ctx context.Context) (net.Conn, error) { return addr.Dial(ctx, secure) }
	err = stored.Send(a.ctx, dial, r.Reader, stored.SendConfig{
		Wire: migration.Wire{Channels: c.Channels, Method: method, Level: c.Level, Accelerator: acc, Counters: &counts, StallTimeout: c.stallTimeout()}, AllZero: c.AllZero, NoReturnPath: c.NoReturnPath, Bandwidth: uint64(c.Bandwidth),
		ConnectTimeout: c.ConnectTimeout,
	})
	stop()
	p.end()
	c.report(a, acc)
	if err != nil {
		return err
	}
	said := "the destination has loaded the machine"
	if c.NoReturnPath {
		said = "the destination was not asked how it went"
	}
	if c.JSON {
		p.line(map[string]any{"result": map[string]any{
			"pages": counts.Normal.Load(), "sent_bytes": counts.Bytes.Load(), "total_ns": time.Since(began), "confirmed": !c.NoReturnPath, "digests_verified": r.DigestsVerified(),
		}})
		return nil
	}
	_, err = fmt.Fprintf(a.stdout, "%s: %d pages in %s sent in %s; %s\n", c.Snapshot, counts.Normal.Load(), size(counts.Bytes.Load()), seconds(time.Since(began)), said)
	return err
}
