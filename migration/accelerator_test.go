package migration_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/iaamodel"
	"github.com/vmferry/vmferry/internal/soak"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/pagecodec"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// model is an accelerator on a model of two devices.
func model(t *testing.T, change func(*iaamodel.Config), opts pagecodec.Options) (*pagecodec.Accelerator, *iaamodel.Machine) {
	t.Helper()
	cfg := iaamodel.Uniform(2, nil)
	cfg.Mapped = true
	if change != nil {
		change(&cfg)
	}
	m, err := iaamodel.New(t.TempDir(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	opts.Device = m.Options()
	if opts.Policy == "" {
		opts.Policy = pagecodec.Require
	}
	acc := pagecodec.NewAccelerator(opts)
	t.Cleanup(func() {
		if err := acc.Close(); err != nil {
			t.Errorf("closing the accelerator: %v", err)
		}
		if v := m.Violations(); len(v) > 0 {
			t.Errorf("the driver did wrong: %v", v)
		}
	})
	return acc, m
}

// modelMemory is guest memory that the model's page table knows.
func modelMemory(m *iaamodel.Machine, present bool) *guestmem.Memory {
	return &guestmem.Memory{Map: func(b *guest.Block) ([]byte, error) { return m.Guest(int(b.Length), present) }}
}

// throughAccelerator sends memory through the accelerator at both ends, in two rounds.
func throughAccelerator(t *testing.T, acc *pagecodec.Accelerator, got *guestmem.Memory) (sent *guestmem.Memory) {
	t.Helper()
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "pc.ram", Length: uint64(soak.Times(2, 8)) << 20}})
	if err != nil {
		t.Fatal(err)
	}
	sent, err = guestmem.New(layout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sent.Close() })
	s := newSchedule(t, 1) // for its pages
	mem := sent.Bytes(layout.Blocks[0])
	for off := 0; off < len(mem); off += 4096 {
		if off/4096%5 > 0 {
			s.scribble(mem[off : off+4096])
		}
	}
	ln := migration.Listen(t)
	done := make(chan error, 1)
	go func() {
		_, err := migration.Receive(context.Background(), ln, migration.ReceiveConfig{Wire: migration.Wire{Channels: 2, Method: multifd.QPL, Accelerator: acc}, Sink: got, ConnectTimeout: time.Minute})
		done <- err
	}()
	addr := transport.Address{Network: "unix", Addr: ln.Addr().String()}
	sender, err := migration.Connect(t.Context(), func(ctx context.Context) (net.Conn, error) { return addr.Dial(ctx, nil) }, migration.SendConfig{
		Wire: migration.Wire{Channels: 2, Method: multifd.QPL, Accelerator: acc}, Layout: layout, ReturnPath: true, Zero: migration.ZeroInPackets, Head: testHead,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	if err := sender.Round(t.Context(), sent.All()); err != nil {
		t.Fatal(err)
	}
	dirty := make([]uint64, layout.Pages(layout.Blocks[0])/64)
	for page := uint64(0); page < layout.Pages(layout.Blocks[0]); page += 3 {
		dirty[page/64] |= 1 << (page % 64)
		s.scribble(mem[page*4096 : (page+1)*4096])
	}
	again, err := sent.Dirty([][]uint64{dirty})
	if err != nil {
		t.Fatal(err)
	}
	if err := sender.Round(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sender.Finish(t.Context(), devicesForTest()), sender.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return sent
}

func TestAccelerator_CarriesAMigration(t *testing.T) {
	tests := []struct {
		name string
		opts pagecodec.Options
		// fresh memory is not present: every page is a fault of the device.
		fresh bool
	}{
		{"device alone", pagecodec.Options{}, false},
		{"hybrid", pagecodec.Options{CPU: 0.5}, false},
		{"bounce", pagecodec.Options{Bounce: true}, false},
		{"touched buffers", pagecodec.Options{Prefault: iaa.PrefaultTouch}, false},
		{"buffers left to the first use", pagecodec.Options{Prefault: iaa.PrefaultNone}, false},
		{"memory that is not present", pagecodec.Options{}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			acc, m := model(t, nil, tt.opts)
			got := modelMemory(m, !tt.fresh)
			sent := throughAccelerator(t, acc, got)
			if !bytes.Equal(sent.Bytes(sent.Layout().Blocks[0]), got.Bytes(got.Layout().Blocks[0])) {
				t.Error("memory differs")
			}
			stats, ok := acc.Stats()
			if !ok || stats.Pages.Hardware == 0 {
				t.Errorf("no page was done by the device: %+v", stats)
			}
			t.Logf("%+v", stats.Pages)
		})
	}
}

var testHead = (&vmstate.Configuration{Machine: "pc-q35-10.0"}).Head()

func TestAccelerator_RequiredAndMissingFailsBeforeSending(t *testing.T) {
	acc := pagecodec.NewAccelerator(pagecodec.Options{Policy: pagecodec.Require, Device: iaa.Options{SysfsRoot: t.TempDir(), DevRoot: t.TempDir()}})
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "pc.ram", Length: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("sending", func(t *testing.T) {
		dial := func(context.Context) (net.Conn, error) {
			t.Error("it connected")
			return nil, errors.New("no")
		}
		_, err := migration.Connect(t.Context(), dial, migration.SendConfig{Wire: migration.Wire{Channels: 2, Method: multifd.QPL, Accelerator: acc}, Layout: layout, Head: testHead})
		checkRequired(t, err)
	})
	t.Run("receiving", func(t *testing.T) {
		_, err := migration.Receive(t.Context(), migration.Listen(t), migration.ReceiveConfig{Wire: migration.Wire{Channels: 2, Method: multifd.QPL, Accelerator: acc}, Sink: new(guestmem.Memory)})
		checkRequired(t, err)
	})
}

func checkRequired(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, iaa.ErrUnavailable) || !strings.Contains(err.Error(), "multifd channel 0") {
		t.Errorf("the error is %v, want one that names the channel and wraps iaa.ErrUnavailable", err)
	}
}

func TestAccelerator_AutoFallsBackToSoftware(t *testing.T) {
	acc := pagecodec.NewAccelerator(pagecodec.Options{Policy: pagecodec.Auto, Device: iaa.Options{SysfsRoot: t.TempDir(), DevRoot: t.TempDir()}})
	got := new(guestmem.Memory)
	defer got.Close()
	sent := throughAccelerator(t, acc, got)
	if !bytes.Equal(sent.Bytes(sent.Layout().Blocks[0]), got.Bytes(got.Layout().Blocks[0])) {
		t.Error("memory differs")
	}
	if _, ok := acc.Stats(); ok {
		t.Error("there are counts of a device that there is not")
	}
}

func TestAccelerator_ReceivesRecordedMigrations(t *testing.T) {
	for name, rec := range migration.Recordings(t) {
		if rec.Method != multifd.QPL {
			continue
		}
		t.Run(name, func(t *testing.T) {
			acc, m := model(t, nil, pagecodec.Options{})
			ln := migration.Listen(t)
			go migration.Replay(t, ln, rec.Conns)
			mem := modelMemory(m, true)
			if _, err := migration.Receive(t.Context(), ln, migration.ReceiveConfig{Wire: migration.Wire{Channels: 2, Method: rec.Method, Accelerator: acc}, Sink: mem, ConnectTimeout: time.Minute}); err != nil {
				t.Fatal(err)
			}
			if sum := migration.Sha(mem.Bytes(mem.Layout().Block("ram0"))); sum != rec.RAM0 {
				t.Errorf("ram0 has the digest %s, want %s", sum, rec.RAM0)
			}
			if s, _ := acc.Stats(); s.Pages.Hardware == 0 {
				t.Errorf("no page was done by the device: %+v", s.Pages)
			}
		})
	}
}

func TestAccelerator_DeflatesASnapshot(t *testing.T) {
	for _, store := range []snapshot.Store{snapshot.StoreFast, snapshot.StoreDense} {
		t.Run(string(store), func(t *testing.T) {
			rec := migration.Recordings(t)["synthetic-none-2ch"]
			acc, _ := model(t, nil, pagecodec.Options{})
			r, _ := keep(t, rec, snapshot.Options{Store: store, Accelerator: acc})
			mem := make([]byte, r.Layout().Block("ram0").Length)
			for off := 0; off < len(mem); off += 4096 {
				if err := r.Page(t.Context(), r.Layout().Block("ram0"), uint64(off), mem[off:off+4096]); err != nil {
					t.Fatal(err)
				}
			}
			if sum := migration.Sha(mem); sum != rec.RAM0 {
				t.Errorf("ram0 has the digest %s, want %s", sum, rec.RAM0)
			}
			if s, _ := acc.Stats(); s.Pages.Hardware == 0 {
				t.Errorf("no page was done by the device: %+v", s.Pages)
			}
		})
	}
}
