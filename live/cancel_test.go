package live_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/vmferry/vmferry/live"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

// counted is a connection that tells what is written to it.
type counted struct {
	net.Conn
	wrote func(n int)
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.wrote(n)
	return n, err
}

func TestMigrate_CanceledAtAnyMomentLeavesTheSourceRunning(t *testing.T) {
	why := errors.New("the operator thought better of it")
	type trial struct {
		*pair
		dial   transport.Dialer
		cancel func()
	}
	moments := map[string]func(p *trial){
		"in the middle of the pause": func(p *trial) {
			pause := p.cfg.Pause
			p.cfg.Pause = func(ctx context.Context) ([]byte, error) {
				defer p.cancel()
				return pause(ctx)
			}
		},
		"when the destination loads": func(p *trial) {
			commit := p.recv.Commit
			p.recv.Commit = func(r *migration.Received) error {
				p.cancel()
				return commit(r)
			}
		},
		"when the log starts": func(p *trial) { p.cfg.Dirty = pacedLog{p.cfg.Dirty, func() {}, p.cancel, func() {}} },
		"after the first round": func(p *trial) {
			report := p.cfg.Report
			p.cfg.Report = func(r live.Round) {
				p.cancel()
				report(r)
			}
		},
	}
	// While it connects, in the first round, and maybe in later ones.
	for _, share := range []int{0, 5, 10, 20, 40, 60, 80, 100} {
		moments[fmt.Sprintf("when %d %% of the data were written", share)] = func(p *trial) {
			var sum atomic.Int64
			dial := p.dial
			p.dial = func(ctx context.Context) (net.Conn, error) {
				conn, err := dial(ctx)
				return counted{conn, func(n int) {
					if sum.Add(int64(n)) > int64(share)*testMemory/100*6/10 {
						p.cancel()
					}
				}}, err
			}
		}
	}
	for name, moment := range moments {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, "tcp", 2, multifd.None)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			x := &trial{p, p.dial, func() { cancel(why) }}
			moment(x)
			// A destination that not all connections reached waits for more.
			there, leave := context.WithCancel(t.Context())
			defer leave()
			dials, dial := 0, x.dial
			p.receive(there)
			out, source := live.Migrate(ctx, func(ctx context.Context) (net.Conn, error) {
				conn, err := dial(ctx)
				if err == nil {
					dials++
				}
				return conn, err
			}, p.cfg)
			if dials < 3 {
				leave()
			}
			destination := <-p.received
			if source == nil { // too late
				if name == "in the middle of the pause" || destination != nil {
					t.Fatal("it was cancelled, and moved all the same", destination)
				}
				p.checkMoved(out)
				return
			}
			if !errors.Is(source, why) || destination == nil {
				t.Errorf("source: %v; destination: %v", source, destination)
			}
			p.checkStayed()
		})
	}
}
