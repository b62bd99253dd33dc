package harness

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/live"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/transport"
)

// WarmUp is the time for which writers write before the migration begins.
const WarmUp = 100 * time.Millisecond

// send runs the source. ready reports that the source is ready, and returns the address of
// the destination.
func send(j Job, ready func() (transport.Address, error)) (Result, error) {
	mem, err := NewMemory(j)
	if err != nil {
		return Result{}, err
	}
	defer mem.Close()
	m, err := machine.NewOn(mem, j.machine())
	if err != nil {
		return Result{}, err
	}
	to, err := ready()
	if err != nil {
		return Result{}, err
	}
	if j.Method == "" {
		return sendBare(j, to, mem)
	}
	return migrate(j, to, m)
}

func migrate(j Job, to transport.Address, m *machine.Machine) (t Result, err error) {
	cfg, err := config(j, m)
	if err != nil {
		return t, err
	}
	if j.Rate > 0 {
		if err := m.Start(); err != nil {
			return t, err
		}
		time.Sleep(WarmUp)
	}
	t.Usage, err = j.measured(func() (err error) {
		dial := func(ctx context.Context) (net.Conn, error) { return to.Dial(ctx, nil) }
		t.Outcome, err = live.Migrate(context.Background(), dial, cfg)
		return err
	})
	if errors.Is(err, live.ErrDiverging) {
		t.Diverging, err = true, nil
	}
	m.Pause() // a machine that diverged still runs
	t.Digest, t.Counters = digest(m.Memory()), m.Counters()
	return t, err
}

func config(j Job, m *machine.Machine) (cfg live.Config, err error) {
	cfg = live.Config{
		Wire: migration.Wire{Channels: j.Channels, Level: j.Level}, Memory: m.Memory(), Downtime: j.Downtime,
		Pause: func(context.Context) ([]byte, error) {
			m.Pause()
			return m.Save()
		},
		Resume: func() error {
			if j.Rate == 0 {
				return nil
			}
			return m.Start()
		},
	}
	if cfg.Method, err = j.method(); err != nil {
		return cfg, err
	}
	cfg.Dirty, err = m.DirtyLog()
	return cfg, err
}

// receive runs the destination.
func receive(j Job, report func(Result) error) (Result, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return Result{}, err
	}
	if _, err := touch(j); err != nil {
		return Result{}, err
	}
	if err := report(Result{Address: "tcp:" + ln.Addr().String()}); err != nil {
		return Result{}, err
	}
	mem := &guestmem.Memory{Options: guestmem.Options{Pages: j.Pages, Prealloc: j.Prealloc}}
	defer mem.Close()
	if j.Method == "" {
		return receiveBare(j, ln, mem)
	}
	return take(j, ln, mem)
}

// take receives a machine. Commit and Start do almost nothing, so that the downtime is that
// of the migration. take loads the machine afterwards.
func take(j Job, ln net.Listener, mem *guestmem.Memory) (t Result, err error) {
	cfg := live.ReceiveConfig{ReceiveConfig: migration.ReceiveConfig{Wire: migration.Wire{Channels: j.Channels}, Sink: mem}}
	if cfg.Method, err = j.method(); err != nil {
		return t, err
	}
	var state []byte
	cfg.Commit = func(r *migration.Received) (err error) {
		state, err = r.OwnerState()
		return err
	}
	cfg.Start = func(*migration.Received) error { return nil }
	t.Usage, err = j.measured(func() error {
		_, err := live.Receive(context.Background(), ln, cfg)
		return err
	})
	if err != nil {
		return t, err
	}
	m, err := machine.NewOn(mem, j.machine())
	if err != nil {
		return t, err
	}
	if err := m.Load(state); err != nil {
		return t, err
	}
	t.Digest, t.Counters = digest(mem), m.Counters()
	return t, m.Check()
}
