package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

type receiveCmd struct {
	Listen        string `required:"" help:"Where to listen: unix:PATH or tcp:HOST:PORT." placeholder:"ADDRESS"`
	wireFlags     `embed:""`
	tlsFlags      `embed:""`
	iaaFlags      `embed:""`
	stallFlags    `embed:""`
	Store         string        `default:"fast" enum:"fast,dense,zstd,raw" help:"How pages are kept: ${enum}."`
	MaxSize       byteSize      `default:"0" help:"Most bytes of the snapshot at any moment, pages that later rounds replaced included, such as 100GiB; 0 is no bound." placeholder:"SIZE"`
	Wait          time.Duration `default:"2m" help:"How long to wait for the source to connect, 0 for good." placeholder:"TIME"`
	SwitchoverAck bool          `help:"Send SWITCHOVER_ACK: for a source with that capability on."`
	NoDescription bool          `help:"Accept a source that sends no VM description (machine option suppress-vmdesc). One that dies at the very end then goes unnoticed."`
	MaxMemory     byteSize      `default:"16TiB" help:"Most memory that the source's machine may have, such as 64GiB." placeholder:"SIZE"`
	JSON          bool          `name:"json" help:"Write progress and result as lines of JSON."`
	Snapshot      string        `arg:"" help:"Directory to make."`
}

func (c *receiveCmd) Run(a *app) (err error) {
	method, err := c.receiving()
	if err != nil {
		return err
	}
	if c.MaxMemory == 0 {
		return errNoMemory
	}
	addr, err := address("listen", c.Listen)
	if err != nil {
		return err
	}
	secure, err := c.config(addr, true)
	if err != nil {
		return err
	}
	c.warn(a, addr)
	acc, err := c.accelerator(a, method, snapshot.Store(c.Store))
	if err != nil {
		return err
	}
	defer acc.Close()
	dir, err := store.CreateDir(c.Snapshot)
	if err != nil {
		return err
	}
	// A source that is told that the snapshot is complete gives its machine
	// up. So a complete snapshot stays, whatever fails later.
	var kept bool
	defer func() {
		if !kept {
			err = errors.Join(err, dir.RemoveDir())
		} else if err != nil {
			err = fmt.Errorf("%w (the snapshot %s is complete and stays)", err, c.Snapshot)
		}
		err = errors.Join(err, dir.Close())
	}()
	w, err := snapshot.Create(a.ctx, dir, snapshot.Options{Store: snapshot.Store(c.Store), Tool: tool(), Accelerator: acc, MaxSize: int64(c.MaxSize)})
	if err != nil {
		return err
	}
	defer func() {
		if !kept {
			err = errors.Join(err, w.Abort(a.ctx))
		}
	}()
	ln, err := addr.Listen(a.ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	p := a.newProgress(c.JSON)
	defer p.end()
	var counts migration.Counters
	stop := every(200*time.Millisecond, func() {
		p.show(0, 0, fmt.Sprintf("%d pages, %s received, %s stored", counts.Normal.Load(), size(counts.Bytes.Load()), size(w.Bytes())),
			map[string]any{"received_bytes": counts.Bytes.Load(), "normal_pages": counts.Normal.Load(), "zero_pages": counts.Zero.Load(), "stored_bytes": w.Bytes()})
	})
	defer stop()
	var m *snapshot.Manifest
	_, err = migration.Receive(a.ctx, ln, migration.ReceiveConfig{
		Wire: migration.Wire{Channels: c.Channels, Method: method, StallTimeout: c.stallTimeout(), Accelerator: acc, Counters: &counts}, Sink: w, TLS: secure, ConnectTimeout: c.Wait,
		Main:      vmstate.DestinationOptions{SwitchoverAck: c.SwitchoverAck, NoDescription: c.NoDescription},
		MaxMemory: uint64(c.MaxMemory),
		Logger:    a.logger(),
		// A source with a return path gives its machine up only when it
		// is told that all is well: here, that the snapshot is complete.
		Commit: func(r *migration.Received) (err error) {
			m, err = w.Finish(a.ctx, stored.Meta(r))
			kept = err == nil
			return err
		},
	})
	stop()
	p.end()
	c.report(a, acc)
	if errors.Is(err, transport.ErrNoSource) {
		return fmt.Errorf("%w; start the migration at the source within that time, or raise --wait", err)
	}
	if err != nil {
		return err
	}
	if c.JSON {
		p.line(map[string]any{"result": map[string]any{
			"snapshot": c.Snapshot, "pages": m.Totals.Pages, "zero_pages": m.Totals.Zero, "snapshot_bytes": m.Bytes(),
			"received_bytes": counts.Bytes.Load(), "total_ns": time.Since(began),
		}})
		return nil
	}
	_, err = fmt.Fprintf(a.stdout, "%s: %d pages (%d more are zero) in %s, received in %s\n",
		c.Snapshot, m.Totals.Pages, m.Totals.Zero, size(m.Bytes()), seconds(time.Since(began)))
	return err
}

// every calls f again and again until the returned function is called, which
// waits for the last call to return.
func every(d time.Duration, f func()) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(d)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				f()
			case <-quit:
				return
			}
		}
	}()
	var stopped bool
	return func() {
		if !stopped {
			stopped = true
			close(quit)
			<-done
		}
	}
}
