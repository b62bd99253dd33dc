//go:build realqemu

package transcode

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/transport"
)

// within returns a context with a timeout that is much longer than the wait of a working
// machine.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
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

// A busy guest moves between QEMUs that use different methods, and moves back.
func TestRealQEMU_GuestMovesBetweenMethods(t *testing.T) {
	for _, tt := range []struct {
		name           string
		in, out        multifd.Method
		from, to       string // versions
		withReturnPath bool
	}{
		{"none to zstd and back", multifd.None, multifd.Zstd, "10.0", "10.0", true},
		{"none to zlib without a return path", multifd.None, multifd.Zlib, "10.0", "10.0", false},
		{"7.2 zlib to 10.0 zstd", multifd.Zlib, multifd.Zstd, "7.2", "10.0", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			source := qemutest.Start(t, qemutest.Config{Version: tt.from, FillMiB: 24, WorkMiB: 4, RateMiBps: 8})
			must(t, source.WaitReady(within(t, 2*time.Minute)))
			cfg := source.Config()
			cfg.Version, cfg.Incoming = tt.to, true
			there := qemutest.Start(t, cfg)
			move(t, source, there, Config{In: tt.in, Out: tt.out}, tt.withReturnPath)
			source.Kill()
			if tt.from == tt.to {
				back := qemutest.Start(t, cfg)
				move(t, there, back, Config{In: tt.out, Out: tt.in}, tt.withReturnPath)
			}
		})
	}
}

// move migrates a guest over Serve, with two channels and several rounds.
func move(t *testing.T, source, destination *qemutest.VM, cfg Config, withReturnPath bool) {
	t.Helper()
	// A folder with a short name, for the paths of sockets.
	dir, err := os.MkdirTemp("", "vf")
	must(t, err)
	defer os.RemoveAll(dir)
	arrive, leave := transport.Address{Network: "unix", Addr: filepath.Join(dir, "a")}, transport.Address{Network: "unix", Addr: filepath.Join(dir, "l")}

	from, to := monitor(t, source), monitor(t, destination)
	defer from.Close() // a monitor serves one client at a time
	defer to.Close()
	for client, method := range map[*qmp.Client]multifd.Method{from: cfg.In, to: cfg.Out} {
		must(t, client.SetMigrateCapabilities(t.Context(), map[string]bool{"multifd": true, "return-path": withReturnPath}))
		must(t, client.SetMigrateParameters(t.Context(), qmp.MigrateParameters{
			MultifdChannels: new(2), MultifdCompression: new(method.Name()),
			MaxBandwidth: new(uint64(24 << 20)), DowntimeLimit: new(qmp.Milliseconds(40)),
		}))
	}
	must(t, to.MigrateIncoming(t.Context(), arrive.String()))

	var log bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	ln, err := leave.Listen(t.Context())
	must(t, err)
	serving, stop := context.WithCancel(t.Context())
	defer stop()
	served := make(chan error, 1)
	go func() {
		served <- Serve(serving, ln, func(ctx context.Context) (net.Conn, error) { return arrive.Dial(ctx, nil) }, cfg)
	}()
	must(t, from.Migrate(t.Context(), leave.String()))
	done := awaitMigration(t, from)
	ln.Close()
	must(t, <-served)
	if done.Status != qmp.MigrationCompleted {
		t.Fatalf("the migration ended %s: %s; the relay logs %q", done.Status, done.ErrorDesc, log.String())
	}
	if log.Len() > 0 {
		t.Errorf("the relay logs %q", log.String())
	}
	if done.RAM == nil || done.RAM.DirtySyncCount < 3 || done.RAM.MultifdBytes == 0 {
		t.Errorf("not several rounds over multifd: %+v", done.RAM)
	}
	last, _ := source.Count()
	must(t, destination.WaitCount(within(t, time.Minute), last+5))
	must(t, destination.WaitVerified(within(t, 2*time.Minute)))
}

// awaitMigration polls until the outgoing migration has ended.
func awaitMigration(t *testing.T, c *qmp.Client) qmp.Migration {
	t.Helper()
	ctx := within(t, 2*time.Minute)
	for {
		m, err := c.QueryMigrate(ctx)
		must(t, err)
		if m.Ended() {
			return m
		}
		time.Sleep(20 * time.Millisecond)
	}
}
