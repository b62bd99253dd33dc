//go:build realqemu

package qemu_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/certtest"
	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/relay"
	"github.com/vmferry/vmferry/transport"
)

// twin starts a QEMU of another version that waits for the machine of vm.
func twin(t *testing.T, vm *qemutest.VM, version string) *qemutest.VM {
	t.Helper()
	cfg := vm.Config()
	cfg.Version, cfg.Incoming, cfg.MemFile = version, true, filepath.Join(t.TempDir(), "ram0")
	return qemutest.Start(t, cfg)
}

func migrateOptions(t *testing.T, vm *qemutest.VM) qemu.MigrateOptions {
	return qemu.MigrateOptions{
		Monitor: qmp.Socket(vm.QMPPath()), Guard: []string{program, "guard"}, AtPauseTimeout: hang,
		// A 7.2 loses no writes with the odd size of memory that qemutest gives it.
		AlwaysLive: true,
	}
}

// moved checks a machine that ran at src before, and has moved to dst.
func moved(t *testing.T, src, dst *qemutest.VM, before int, result *qemu.MigrateResult) {
	t.Helper()
	if result.Runs != "destination" || result.RunState != qmp.StateRunning || result.SourceState != qmp.StatePostmigrate {
		t.Errorf("%+v", result)
	}
	if got := state(t, dial(t, src.QMPPath2())); got != qmp.StatePostmigrate {
		t.Errorf("the source is %q", got)
	}
	if got := state(t, dial(t, dst.QMPPath2())); got != qmp.StateRunning {
		t.Errorf("the destination is %q", got)
	}
	sound(t, dst)
	if after, _ := dst.Count(); after < before {
		t.Errorf("the machine counts from %d, it was at %d at the source: it booted anew", after, before)
	}
	t.Logf("total %v, paused %v, downtime %v, handover %v, %d rounds", result.Total, result.Paused, result.Downtime, result.Handover, result.Rounds)
}

var movedBetween = []struct{ from, to string }{{"10.0", "10.0"}, {"7.2", "10.0"}, {"10.0", "7.2"}}

func TestRealQEMUMigrate_OneHost(t *testing.T) {
	t.Parallel()
	for _, tt := range movedBetween {
		t.Run(tt.from+" to "+tt.to, func(t *testing.T) {
			src := source(t, tt.from)
			dst := twin(t, src, tt.to)
			before, _ := src.Count()
			opts := migrateOptions(t, src)
			opts.Destination = qmp.Socket(dst.QMPPath())
			result, err := qemu.Migrate(soon(t), opts)
			if err != nil {
				t.Fatalf("%v\n%s", err, dst.Stderr())
			}
			moved(t, src, dst, before, result)
		})
	}
}

// accepting is an Accept that runs.
type accepting struct {
	result *qemu.AcceptResult
	err    error
	done   chan struct{}
}

func startAccept(ctx context.Context, opts qemu.AcceptOptions) *accepting {
	a := &accepting{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.result, a.err = qemu.Accept(ctx, opts)
	}()
	return a
}

func (a *accepting) wait(t *testing.T) (*qemu.AcceptResult, error) {
	t.Helper()
	select {
	case <-a.done:
	case <-time.After(hang):
		t.Fatal("accept does not end")
	}
	return a.result, a.err
}

// tlsConfigs are the configurations of the two sides, each with a certificate of one
// authority.
func tlsConfigs(t *testing.T) (source, destination *tls.Config) {
	t.Helper()
	ca, err := certtest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	config := func(name string) *tls.Config {
		pair, err := ca.Issue(name)
		if err != nil {
			t.Fatal(err)
		}
		own, err := pair.TLS()
		if err != nil {
			t.Fatal(err)
		}
		var pool *x509.CertPool = ca.Pool()
		return transport.RequirePeer(&tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, RootCAs: pool}, "localhost")
	}
	return config("source"), config("destination")
}

func listenTCP(t *testing.T) (net.Listener, transport.Address) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln, transport.Address{Network: "tcp", Addr: ln.Addr().String()}
}

func TestRealQEMUMigrate_TwoHostsOverTLS(t *testing.T) {
	t.Parallel()
	for _, tt := range movedBetween {
		t.Run(tt.from+" to "+tt.to, func(t *testing.T) {
			src := source(t, tt.from)
			dst := twin(t, src, tt.to)
			before, _ := src.Count()
			opts := migrateOptions(t, src)
			ln, at := listenTCP(t)
			secure := qemu.AcceptOptions{Monitor: qmp.Socket(dst.QMPPath()), Listener: ln}
			opts.TLS, secure.TLS = tlsConfigs(t)
			opts.Connect, opts.Relay = at, relay.Config{Cache: 64 << 20}
			accept := startAccept(soon(t), secure)
			result, err := qemu.Migrate(soon(t), opts)
			accepted, acceptErr := accept.wait(t)
			if err != nil || acceptErr != nil {
				t.Fatalf("%v; accept: %v\n%s", err, acceptErr, dst.Stderr())
			}
			if accepted.Runs != "destination" || !accepted.Confirmed || accepted.RunState != qmp.StateRunning {
				t.Errorf("%+v", accepted)
			}
			moved(t, src, dst, before, result)
			settingsAreBack(t, src)
			settingsAreBack(t, dst)
		})
	}
}

func settingsAreBack(t *testing.T, vm *qemutest.VM) {
	t.Helper()
	c := dial(t, vm.QMPPath())
	defer c.Close()
	caps, err := c.QueryMigrateCapabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	params, err := c.QueryMigrateParameters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if caps["multifd"] || caps["late-block-activate"] || caps["pause-before-switchover"] || *params.MaxBandwidth > 1<<30 {
		t.Errorf("multifd is %v, late-block-activate %v and max-bandwidth %d", caps["multifd"], caps["late-block-activate"], *params.MaxBandwidth)
	}
}

// The machine writes for some rounds, and is paused by another program before the
// switchover. It is then paused at the destination, with the same memory.
func TestRealQEMUMigrate_PausedMeanwhileStaysPaused(t *testing.T) {
	t.Parallel()
	src := source(t, "10.0")
	dst := twin(t, src, "10.0")
	look := dial(t, src.QMPPath2())
	opts := migrateOptions(t, src)
	// The machine writes too much for this downtime.
	opts.Destination, opts.Bandwidth, opts.Downtime, opts.MaxRounds = qmp.Socket(dst.QMPPath()), 32<<20, time.Millisecond, 1000
	var once sync.Once
	opts.Progress = func(p migration.Progress) {
		if p.Round >= 2 && p.Phase == "memory" {
			once.Do(func() {
				if err := look.Stop(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
	}
	result, err := qemu.Migrate(soon(t), opts)
	if err != nil {
		t.Fatalf("%v\n%s", err, dst.Stderr())
	}
	arrivedPaused(t, src, dst, result, 2)
}

func TestRealQEMUMigrate_PausedBeforeStaysPaused(t *testing.T) {
	t.Parallel()
	src := source(t, "10.0")
	dst := twin(t, src, "10.0")
	if err := dial(t, src.QMPPath2()).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	opts := migrateOptions(t, src)
	ln, at := listenTCP(t)
	opts.Connect = at
	accept := startAccept(soon(t), qemu.AcceptOptions{Monitor: qmp.Socket(dst.QMPPath()), Listener: ln})
	result, err := qemu.Migrate(soon(t), opts)
	if _, acceptErr := accept.wait(t); err != nil || acceptErr != nil {
		t.Fatalf("%v; accept: %v\n%s", err, acceptErr, dst.Stderr())
	}
	arrivedPaused(t, src, dst, result, 1)
}

// arrivedPaused checks a machine that is paused at both sides, and then lets it run.
func arrivedPaused(t *testing.T, src, dst *qemutest.VM, result *qemu.MigrateResult, rounds uint64) {
	t.Helper()
	if result.Runs != "destination" || result.RunState != qmp.StatePaused || result.Rounds < rounds || result.Paused != 0 {
		t.Errorf("%+v", result)
	}
	if got := state(t, dial(t, dst.QMPPath2())); got != qmp.StatePaused {
		t.Errorf("the destination is %q", got)
	}
	sameFiles(t, dst.MemFile(), src.MemFile())
	if err := dial(t, dst.QMPPath()).Cont(t.Context()); err != nil {
		t.Fatal(err)
	}
	sound(t, dst)
}

// No page moves, and the destination can still be used, when the two sides differ.
func TestRealQEMUMigrate_RefusesADifferentMachine(t *testing.T) {
	t.Parallel()
	src := source(t, "10.0")
	tests := []struct {
		name   string
		change func(*qemutest.Config)
		want   string
	}{
		{"another machine type", func(c *qemutest.Config) { c.Machine = "pc-q35-7.1" }, `the source has "pc-q35-7.2", the destination has "pc-q35-7.1" (start it with "-M pc-q35-7.2"`},
		{"another size of memory", func(c *qemutest.Config) { c.MemoryBytes = 2 * guestMiB << 20 }, "memory: the source has 160M, the destination has 320M"},
		{"a device more", func(c *qemutest.Config) { c.ExtraArgs = []string{"-device", "virtio-rng-pci"} }, `"virtio-rng-pci"`},
		{"another CPU", func(c *qemutest.Config) { c.ExtraArgs = []string{"-cpu", "Nehalem"} }, "CPU type"},
		{"another UUID", func(c *qemutest.Config) { c.ExtraArgs = []string{"-uuid", "11111111-2222-3333-4444-555555555555"} }, "UUID"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := src.Config()
			cfg.Incoming, cfg.MemFile = true, filepath.Join(t.TempDir(), "ram0")
			tt.change(&cfg)
			dst := qemutest.Start(t, cfg)
			ln, at := listenTCP(t)
			ctx, end := context.WithCancel(t.Context())
			defer end()
			accept := startAccept(ctx, qemu.AcceptOptions{Monitor: qmp.Socket(dst.QMPPath()), Listener: ln})
			opts := migrateOptions(t, src)
			opts.Connect, opts.DryRun = at, true
			result, err := qemu.Migrate(soon(t), opts)
			if result == nil || !strings.Contains(strings.Join(result.Differences, "\n"), tt.want) || !errors.As(err, new(*qemu.MismatchError)) {
				t.Errorf("the dry run: %+v, %v; want a difference with %q", result, err, tt.want)
			}
			opts.DryRun = false
			_, err = qemu.Migrate(soon(t), opts)
			_, acceptErr := accept.wait(t)
			for _, err := range []error{err, acceptErr} {
				if !errors.As(err, new(*qemu.MismatchError)) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want a difference with %q", err, tt.want)
				}
			}
			look := dial(t, dst.QMPPath())
			m, err := look.QueryMigrate(t.Context())
			if err != nil || m.Status != "" && m.Status != qmp.MigrationNone || state(t, look) != qmp.StateInmigrate {
				t.Errorf("the destination was touched: %q, %v", m.Status, err)
			}
			settingsAreBack(t, src)
			runsOn(t, src)
			dst.Kill()
		})
	}
}

// A 7.2 of the usual size would lose writes of a machine that runs. The machine is paused
// at the source, and runs at the destination.
func TestRealQEMUMigrate_PausesAQEMUThatLosesWrites(t *testing.T) {
	t.Parallel()
	cfg := config("7.2")
	cfg.MemoryBytes, cfg.MemFile = guestMiB<<20, filepath.Join(t.TempDir(), "ram0")
	src := qemutest.Start(t, cfg)
	if err := src.WaitReady(soon(t)); err != nil {
		t.Fatal(err)
	}
	dst := twin(t, src, "10.0")
	before, _ := src.Count()
	opts := migrateOptions(t, src)
	ln, at := listenTCP(t)
	opts.Connect, opts.AlwaysLive = at, false
	accept := startAccept(soon(t), qemu.AcceptOptions{Monitor: qmp.Socket(dst.QMPPath()), Listener: ln})
	result, err := qemu.Migrate(soon(t), opts)
	if _, acceptErr := accept.wait(t); err != nil || acceptErr != nil {
		t.Fatalf("%v; accept: %v\n%s", err, acceptErr, dst.Stderr())
	}
	moved(t, src, dst, before, result)
	if result.Paused < result.Total/4 {
		t.Errorf("the machine was paused for %v of %v", result.Paused, result.Total)
	}
}

// A machine whose migration fails, for a reason of this side, runs on, and can be migrated
// afterwards.
func TestRealQEMUMigrate_FailureLeavesTheMachineRunning(t *testing.T) {
	t.Parallel()
	src := source(t, "10.0")
	tests := []struct {
		name, want string
		change     func(*qemu.MigrateOptions)
	}{
		{"the command at the pause fails", "no room for the disk", func(o *qemu.MigrateOptions) { o.AtPause = "echo no room for the disk; exit 3" }},
		{"it diverges", "writes to its memory faster", func(o *qemu.MigrateOptions) {
			o.Bandwidth, o.Downtime, o.MaxRounds = 24<<20, time.Millisecond, 1
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dst := twin(t, src, "10.0")
			opts := migrateOptions(t, src)
			ln, at := listenTCP(t)
			opts.Connect = at
			tt.change(&opts)
			accept := startAccept(soon(t), qemu.AcceptOptions{Monitor: qmp.Socket(dst.QMPPath()), Listener: ln})
			_, err := qemu.Migrate(soon(t), opts)
			_, acceptErr := accept.wait(t)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasSuffix(err.Error(), "; the source runs") {
				t.Errorf("%v, want %q and that the source runs", err, tt.want)
			}
			if acceptErr == nil || !strings.Contains(acceptErr.Error(), "the machine does not run here") {
				t.Errorf("accept: %v", acceptErr)
			}
			settingsAreBack(t, src)
			runsOn(t, src)
			dst.Kill()
		})
	}
	t.Run("and can be migrated afterwards", func(t *testing.T) {
		dst := twin(t, src, "10.0")
		marker := filepath.Join(t.TempDir(), "ran")
		opts := migrateOptions(t, src)
		opts.Destination, opts.Diverging, opts.AtPause = qmp.Socket(dst.QMPPath()), qemu.DivergingThrottle, "touch "+marker
		before, _ := src.Count()
		result, err := qemu.Migrate(soon(t), opts)
		if err != nil {
			t.Fatalf("%v\n%s", err, dst.Stderr())
		}
		if _, err := os.Stat(marker); err != nil {
			t.Error("the command at the pause did not run")
		}
		moved(t, src, dst, before, result)
	})
}
