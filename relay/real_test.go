//go:build realqemu

package relay_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/relay"
	"github.com/vmferry/vmferry/transport"
)

// realMigration is a migration of a busy guest between two QEMUs, through a pair of
// relays.
type realMigration struct {
	from, to           string // versions
	compression        string // of QEMU's channels
	channels           int    // 0 is without multifd
	returnPath         bool
	postcopy, preempt  bool
	relays             relay.Config
	source, there      *qemutest.VM
	sourceQMP, destQMP *qmp.Client
}

// TestRealQEMU_PairKeepsTheGuest moves a guest with each of QEMU's ways. The link is slow,
// so that the relays compress.
func TestRealQEMU_PairKeepsTheGuest(t *testing.T) {
	slow := relay.Config{Cache: 16 << 20, Bandwidth: 24 << 20, CPUs: -1}
	var cases []realMigration
	for _, compression := range []string{"none", "zlib", "zstd"} {
		for _, channels := range []int{1, 4} {
			cases = append(cases, realMigration{from: "10.0", to: "10.0", compression: compression, channels: channels, returnPath: channels == 4, relays: slow})
		}
	}
	cases = append(cases,
		realMigration{from: "7.2", to: "10.0", compression: "none", channels: 2, returnPath: true, relays: slow},
		realMigration{from: "7.2", to: "7.2", compression: "zstd", channels: 2, relays: slow},
		realMigration{from: "10.0", to: "10.0", returnPath: true, relays: slow},
		realMigration{from: "10.0", to: "10.0", postcopy: true, relays: slow},
		realMigration{from: "10.0", to: "10.0", postcopy: true, preempt: true, relays: slow},
		realMigration{from: "7.2", to: "10.0", postcopy: true, relays: slow},
		realMigration{from: "11.1", to: "11.1", compression: "none", channels: 2, returnPath: true, postcopy: true, relays: slow},
	)
	for _, c := range []relay.Compression{relay.None, relay.QPL, relay.Zstd} {
		cfg := slow
		cfg.Compression = c
		cases = append(cases, realMigration{from: "10.0", to: "10.0", compression: "none", channels: 2, returnPath: true, relays: cfg})
	}
	for _, m := range cases {
		name := fmt.Sprintf("%s-%s %s%d return-path=%v postcopy=%v preempt=%v link=%s", m.from, m.to, m.compression, m.channels, m.returnPath, m.postcopy, m.preempt, m.relays.Compression)
		t.Run(name, func(t *testing.T) { m.run(t) })
	}
}

func (m *realMigration) run(t *testing.T) {
	m.source = qemutest.Start(t, qemutest.Config{Version: m.from, FillMiB: 24, WorkMiB: 4, RateMiBps: 8})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	must(t, m.source.WaitReady(ctx))
	cfg := m.source.Config()
	cfg.Version, cfg.Incoming = m.to, true
	m.there = qemutest.Start(t, cfg)
	m.sourceQMP, m.destQMP = monitor(t, m.source), monitor(t, m.there)
	defer m.sourceQMP.Close()
	defer m.destQMP.Close()
	dir, err := os.MkdirTemp("", "vf") // a short name, for the sockets
	must(t, err)
	defer os.RemoveAll(dir)
	front, back := "unix:"+filepath.Join(dir, "front"), "unix:"+filepath.Join(dir, "back")
	stats, stop := m.startRelays(t, front, back)
	m.configure(t)
	must(t, m.destQMP.MigrateIncoming(ctx, back))
	must(t, m.sourceQMP.Migrate(ctx, front))
	m.await(t, ctx)
	last, _ := m.source.Count()
	must(t, m.there.WaitCount(ctx, last+5))
	must(t, m.there.WaitVerified(ctx))
	stop()
	s := stats()
	t.Logf("%d MB from QEMU, %d MB over the link, pages %+v", s.FromQEMU>>20, s.ToLink>>20, s.Sent)
	if s.Broken > 0 {
		t.Errorf("%d connections broke", s.Broken)
	}
	if m.compression == "none" && m.channels > 0 && s.Sent.Pages() == 0 {
		t.Error("no page was recognised")
	}
}

// startRelays starts the pair. stop ends it when the connections have ended.
func (m *realMigration) startRelays(t *testing.T, front, back string) (stats func() relay.Counters, stop func()) {
	listen := func(addr string) net.Listener {
		a, err := transport.ParseAddress(addr)
		must(t, err)
		ln, err := a.Listen(t.Context())
		must(t, err)
		return ln
	}
	dial := func(addr string) transport.Dialer {
		a, err := transport.ParseAddress(addr)
		must(t, err)
		return func(ctx context.Context) (net.Conn, error) { return a.Dial(ctx, nil) }
	}
	source, err := relay.New(m.relays)
	must(t, err)
	destination, err := relay.New(m.relays)
	must(t, err)
	link, frontLn := listen("tcp:127.0.0.1:0"), listen(front)
	var serving sync.WaitGroup
	serving.Go(func() { source.ServeSource(t.Context(), frontLn, dial("tcp:"+link.Addr().String())) })
	serving.Go(func() { destination.ServeDestination(t.Context(), link, nil, dial(back)) })
	stop = sync.OnceFunc(func() {
		frontLn.Close()
		link.Close()
		serving.Wait()
		source.Close()
		destination.Close()
	})
	t.Cleanup(stop)
	return func() relay.Counters { return source.Stats().Total }, stop
}

func (m *realMigration) configure(t *testing.T) {
	for i, c := range []*qmp.Client{m.sourceQMP, m.destQMP} {
		caps := map[string]bool{"multifd": m.channels > 0, "return-path": m.returnPath || m.postcopy, "events": true}
		if m.postcopy {
			caps["postcopy-ram"] = true
			if m.preempt {
				caps["postcopy-preempt"] = true
			}
		}
		must(t, c.SetMigrateCapabilities(t.Context(), caps))
		p := qmp.MigrateParameters{}
		if m.channels > 0 {
			p.MultifdChannels, p.MultifdCompression = &m.channels, &m.compression
		}
		if i == 0 {
			p.MaxBandwidth, p.DowntimeLimit = new(uint64(1<<30)), new(qmp.Milliseconds(100))
		}
		must(t, c.SetMigrateParameters(t.Context(), p))
	}
}

// await starts postcopy after the first round, and waits for the end.
func (m *realMigration) await(t *testing.T, ctx context.Context) {
	for started := false; ; {
		q, err := m.sourceQMP.QueryMigrate(ctx)
		must(t, err)
		if q.Ended() {
			if q.Status != qmp.MigrationCompleted {
				t.Fatalf("the migration ended %s: %s", q.Status, q.ErrorDesc)
			}
			return
		}
		if m.postcopy && !started && q.Status == "active" {
			started = true
			must(t, m.sourceQMP.Execute(ctx, "migrate-start-postcopy", nil, nil))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func monitor(t *testing.T, vm *qemutest.VM) *qmp.Client {
	t.Helper()
	c, err := qmp.Dial(t.Context(), vm.QMPPath())
	must(t, err)
	return c
}
