package qemu

import (
	"context"
	"fmt"
	"sync"

	"github.com/vmferry/vmferry/qemu/agreement"
)

// peer is the destination of a migration, as the source sees it: a QEMU of this host, or
// a vmferry on another host. Its methods are called in this order.
type peer interface {
	// name names the destination in results.
	name() string
	// linkBytes is what the links of QEMU's connections carried to the destination, 0
	// without links.
	linkBytes() uint64
	// agree compares the destination with the source's description.
	agree(ctx context.Context, source *agreement.Description) (*agreement.Message, error)
	// start sets the destination up, and returns the address to which the source's QEMU
	// migrates.
	start(ctx context.Context, o *outgoing) (uri string, err error)
	// events reports what happens to the destination after start.
	events() <-chan peerEvent
	// run hands the machine over. Its outcome is final.
	run(ctx context.Context, run bool) agreement.Message
	// stop ends the connections of QEMU, after QEMU has ended the migration. It sends
	// the destination the reason, unless that is nil or was sent before.
	stop(why error)
	// close ends everything else.
	close(ctx context.Context)
}

// peerEvent is one of three.
type peerEvent struct {
	loaded    string // the run state of the machine that is loaded at the destination
	err       error  // the destination has failed, or is lost
	linkEnded error  // a connection of QEMU ended with an error
}

// localPeer is a QEMU of this host.
type localPeer struct {
	destination
	opts    *MigrateOptions
	news    chan peerEvent
	loading context.CancelFunc
	running sync.WaitGroup
	said    bool // the state of the destination was logged
}

func newLocalPeer(opts *MigrateOptions) *localPeer {
	return &localPeer{opts: opts, news: make(chan peerEvent, 1), loading: func() {}, destination: destination{
		monitor: opts.Destination, tool: opts.Tool, socketDir: opts.SocketDir, stall: opts.StallTimeout, logger: opts.Logger,
	}}
}

func (p *localPeer) name() string      { return p.monitor.String() }
func (p *localPeer) linkBytes() uint64 { return 0 }

func (p *localPeer) agree(ctx context.Context, source *agreement.Description) (*agreement.Message, error) {
	if err := p.open(ctx, p.opts.ConnectTimeout); err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	found, err := p.compareWith(ctx, source, p.opts.Channels)
	if err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	return &agreement.Message{Type: agreement.TypeAnswer, Description: p.side.description, Differences: found.differences, Remarks: found.remarks}, nil
}

func (p *localPeer) start(ctx context.Context, _ *outgoing) (string, error) {
	if err := p.prepare(ctx); err != nil {
		return "", fmt.Errorf("destination: %w", err)
	}
	loading, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.loading = cancel
	p.running.Go(func() {
		state, err := p.loaded(loading)
		if err != nil {
			state, err = "", fmt.Errorf("destination: %w", err)
		}
		p.news <- peerEvent{loaded: state, err: err}
	})
	return p.dir.address(), nil
}

func (p *localPeer) events() <-chan peerEvent { return p.news }

func (p *localPeer) run(ctx context.Context, run bool) agreement.Message {
	return p.runMachine(ctx, run)
}

func (p *localPeer) stop(why error) {
	p.loading()
	p.running.Wait()
	if why != nil && p.prepared && !p.said {
		p.said = true
		p.logger.Warn(p.describeState(context.Background()))
	}
}

func (p *localPeer) close(ctx context.Context) { p.finish(ctx) }
