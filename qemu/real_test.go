//go:build realqemu

package qemu_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/internal/soak"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
)

// vmferry is the built program, for its guard and for tests that kill it.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "vmferry-test-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "vmferry")
	build := exec.Command("go", "build", "-o", program, "github.com/vmferry/vmferry/cmd/vmferry")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building vmferry: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

const guestMiB = 160

func config(version string) qemutest.Config {
	return qemutest.Config{Version: version, MemoryMiB: guestMiB, FillMiB: 24, WorkMiB: 8, RateMiBps: 4}
}

// source boots a guest whose memory can be read from outside.
func source(t *testing.T, version string) *qemutest.VM {
	t.Helper()
	cfg := config(version)
	cfg.MemFile = filepath.Join(t.TempDir(), "ram0")
	vm := qemutest.Start(t, cfg)
	if err := vm.WaitReady(soon(t)); err != nil {
		t.Fatal(err)
	}
	return vm
}

// destination starts a QEMU that waits for a machine like source's.
func destination(t *testing.T, version string) *qemutest.VM {
	t.Helper()
	cfg := config(version)
	cfg.MemFile = filepath.Join(t.TempDir(), "ram0")
	cfg.Incoming = true
	return qemutest.Start(t, cfg)
}

func options(vm *qemutest.VM) qemu.SaveOptions {
	return qemu.SaveOptions{Monitor: qmp.Socket(vm.QMPPath()), Guard: []string{program, "guard"}, AtPauseTimeout: hang}
}

func saveTo(t *testing.T, path string, opts qemu.SaveOptions) *vmferry.SaveResult {
	t.Helper()
	ctx := soon(t)
	result, err := vmferry.Save(ctx, vmferry.Snapshot{Path: path}, opts)
	if err != nil {
		t.Fatalf("save: %v", err)
	}
	return result
}

func open(t *testing.T, path string) *snapshot.Reader {
	t.Helper()
	dir, err := store.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := snapshot.Open(t.Context(), dir, snapshot.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// runsOn checks that the guest goes on counting and finds its memory in order.
func runsOn(t *testing.T, vm *qemutest.VM) {
	t.Helper()
	if err := vm.WaitProgress(soon(t), hang); err != nil {
		t.Fatalf("the guest does not go on: %v\n%s", err, vm.Stderr())
	}
	if err := vm.Corrupt(); err != nil {
		t.Fatal(err)
	}
}

// sound checks, too, that the guest has gone through all its memory once more.
func sound(t *testing.T, vm *qemutest.VM) {
	t.Helper()
	runsOn(t, vm)
	if err := vm.WaitVerified(soon(t)); err != nil {
		t.Fatal(err)
	}
}

// hang is how long a test waits for what is sure to come.
const hang = 10 * time.Minute

// soon is a context that ends before a test that waits for nothing does.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	t.Cleanup(cancel)
	return ctx
}

// noSnapshot checks that nothing at path looks like a snapshot.
func noSnapshot(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(path, "manifest.json")); err == nil {
		t.Errorf("%s holds a manifest", path)
	}
}

func TestRealQEMUSaveAndRestore(t *testing.T) {
	t.Parallel()
	for _, version := range qemutest.Versions() {
		t.Run(version, func(t *testing.T) {
			src := source(t, version)
			for _, method := range []multifd.Method{multifd.None, multifd.Zlib, multifd.Zstd} {
				for _, channels := range []int{1, 2, 8} {
					t.Run(fmt.Sprintf("%s/%dch", method.Name(), channels), func(t *testing.T) {
						saveAndRestore(t, src, version, method, channels)
					})
				}
			}
		})
	}
}

func saveAndRestore(t *testing.T, src *qemutest.VM, version string, method multifd.Method, channels int) {
	dir := t.TempDir()
	path, memory := filepath.Join(dir, "snapshot"), filepath.Join(dir, "memory")
	opts := options(src)
	opts.Channels, opts.Method = channels, method
	// A 7.2 loses no writes with the odd size of memory that qemutest gives it.
	opts.AlwaysLive = true
	opts.AtPause = fmt.Sprintf("cp --sparse=always %s %s", src.MemFile(), memory)
	before, _ := src.Count()
	saveTo(t, path, opts)
	runsOn(t, src)

	r := open(t, path)
	exported := filepath.Join(dir, "exported")
	f, err := os.Create(exported)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := r.ExportRaw(t.Context(), r.Layout().Block("ram0"), f); err != nil {
		t.Fatal(err)
	}
	sameFiles(t, exported, memory)

	dst := destination(t, version)
	ctx := soon(t)
	result, err := qemu.Restore(ctx, r, qemu.RestoreOptions{Monitor: qmp.Socket(dst.QMPPath()), Wire: migration.Wire{Channels: channels, Method: method}})
	if err != nil {
		t.Fatalf("restore: %v\n%s", err, dst.Stderr())
	}
	if result.RunState != qmp.StateRunning {
		t.Errorf("restored to %q, want running", result.RunState)
	}
	// The guest looks at some pages each time it counts, and at all in a while.
	if soak.Long || method == multifd.Zstd && channels == 2 {
		sound(t, dst)
	} else {
		runsOn(t, dst)
	}
	if after, _ := dst.Count(); after < before {
		t.Errorf("the restored guest counts from %d, the source was at %d before the save: it booted anew", after, before)
	}
	dst.Kill()
}

func sameFiles(t *testing.T, got, want string) {
	t.Helper()
	a, err := os.ReadFile(got)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < guestMiB<<20-1<<18 {
		t.Fatalf("the guest's memory has %d bytes", len(b))
	}
	if bytes.Equal(a, b) {
		return
	}
	differ := 0
	for i := 0; i+4096 <= len(b) && i+4096 <= len(a); i += 4096 {
		if !bytes.Equal(a[i:i+4096], b[i:i+4096]) {
			if differ == 0 {
				t.Errorf("the first page that differs is at %#x", i)
			}
			differ++
		}
	}
	t.Errorf("%d pages of the snapshot differ from QEMU's memory", differ)
}

// A machine moves up and down through the versions that know its type.
func TestRealQEMURestoresAcrossVersions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		from, machine string
		to            []string
	}{
		{"7.2", "pc-q35-7.2", []string{"10.0", "11.1"}},
		{"10.0", "pc-q35-10.0", []string{"11.1"}},
		{"10.0", "pc-q35-7.2", []string{"11.1"}},
		{"10.0", "pc-i440fx-7.2", []string{"11.1"}},
		{"11.1", "pc-q35-10.0", []string{"10.0"}},
		{"11.1", "pc-q35-7.2", []string{"10.0"}},
		{"11.1", "pc-i440fx-7.2", []string{"10.0"}},
	}
	for _, tt := range tests {
		to := slices.DeleteFunc(tt.to, func(version string) bool { return !qemutest.Has(tt.from, version) })
		if len(to) == 0 {
			continue // this 11.1 could not be set up
		}
		t.Run(fmt.Sprintf("%s of %s to %s", tt.machine, tt.from, strings.Join(to, " and ")), func(t *testing.T) {
			restoreAcross(t, tt.from, tt.machine, to)
		})
	}
}

func restoreAcross(t *testing.T, from, machine string, to []string) {
	cfg := config(from)
	cfg.Machine, cfg.MemFile = machine, filepath.Join(t.TempDir(), "ram0")
	src := qemutest.Start(t, cfg)
	if err := src.WaitReady(soon(t)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "snapshot")
	saveTo(t, path, options(src))
	src.Kill()
	before, _ := src.Count()
	for _, version := range to {
		cfg := src.Config() // of the same size, to the byte
		cfg.Version, cfg.Incoming, cfg.MemFile = version, true, filepath.Join(t.TempDir(), "ram0")
		dst := qemutest.Start(t, cfg)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		result, err := qemu.Restore(ctx, open(t, path), qemu.RestoreOptions{Monitor: qmp.Socket(dst.QMPPath())})
		cancel()
		if err != nil {
			t.Fatalf("restore in %s: %v\n%s", version, err, dst.Stderr())
		}
		if result.RunState != qmp.StateRunning {
			t.Errorf("restored in %s to %q, want running", version, result.RunState)
		}
		sound(t, dst)
		if after, _ := dst.Count(); after < before/4 {
			t.Errorf("the guest restored in %s counts from %d, the source was at %d: it booted anew", version, after, before)
		}
		dst.Kill()
	}
}

// A 7.2 of the usual size would lose writes of a machine that runs.
func TestRealQEMUThatLosesWritesIsPausedFirst(t *testing.T) {
	t.Parallel()
	cfg := config("7.2")
	cfg.MemoryBytes = guestMiB << 20
	cfg.MemFile = filepath.Join(t.TempDir(), "ram0")
	src := qemutest.Start(t, cfg)
	if err := src.WaitReady(soon(t)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path, memory, exported := filepath.Join(dir, "snapshot"), filepath.Join(dir, "memory"), filepath.Join(dir, "exported")
	opts := options(src)
	opts.AtPause = fmt.Sprintf("cp --sparse=always %s %s", src.MemFile(), memory)
	saveTo(t, path, opts)
	runsOn(t, src)
	r := open(t, path)
	f, err := os.Create(exported)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.ExportRaw(t.Context(), r.Layout().Block("ram0"), f), f.Close()); err != nil {
		t.Fatal(err)
	}
	sameFiles(t, exported, memory)
	cfg = src.Config()
	cfg.Incoming, cfg.MemFile = true, filepath.Join(t.TempDir(), "ram0")
	dst := qemutest.Start(t, cfg)
	result, err := qemu.Restore(t.Context(), r, qemu.RestoreOptions{Monitor: qmp.Socket(dst.QMPPath())})
	if err != nil {
		t.Fatal(err)
	}
	if result.RunState != qmp.StateRunning {
		t.Errorf("restored to %q: the machine ran when its save began", result.RunState)
	}
	sound(t, dst)
}

func TestRealQEMUEveryStoreRestores(t *testing.T) {
	t.Parallel()
	src := source(t, "10.0")
	for _, kind := range []snapshot.Store{snapshot.StoreFast, snapshot.StoreDense, snapshot.StoreZstd, snapshot.StoreRaw} {
		t.Run(string(kind), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "snapshot")
			if _, err := vmferry.Save(soon(t), vmferry.Snapshot{Path: path, Store: kind}, options(src)); err != nil {
				t.Fatalf("save: %v", err)
			}
			r := open(t, path)
			if _, err := r.Verify(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			dst := destination(t, "10.0")
			if _, err := qemu.Restore(t.Context(), r, qemu.RestoreOptions{Monitor: qmp.Socket(dst.QMPPath())}); err != nil {
				t.Fatalf("restore: %v\n%s", err, dst.Stderr())
			}
			sound(t, dst)
			dst.Kill()
		})
	}
}

func TestRealQEMULoadsMappedRAM(t *testing.T) {
	t.Parallel()
	src := source(t, "10.0")
	dir := t.TempDir()
	path, file := filepath.Join(dir, "snapshot"), filepath.Join(dir, "mapped")
	saveTo(t, path, options(src))
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(open(t, path).ExportMappedRAM(t.Context(), f), f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, version := range qemutest.Versions()[1:] { // 7.2 has none
		t.Run(version, func(t *testing.T) { loadMappedRAM(t, version, file) })
	}
}

func loadMappedRAM(t *testing.T, version, file string) {
	dst := destination(t, version)
	c := dial(t, dst.QMPPath())
	ctx := soon(t)
	if err := c.SetMigrateCapabilities(ctx, map[string]bool{"mapped-ram": true}); err != nil {
		t.Fatal(err)
	}
	if err := c.MigrateIncoming(ctx, "file:"+file); err != nil {
		t.Fatal(err)
	}
	sound(t, dst)
	if s, err := c.QueryMigrate(ctx); err != nil || s.Status != qmp.MigrationCompleted {
		t.Errorf("QEMU says %q, %v", s.Status, err)
	}
}

func dial(t *testing.T, path string) *qmp.Client {
	t.Helper()
	c, err := qmp.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func state(t *testing.T, c *qmp.Client) string {
	t.Helper()
	s, err := c.QueryStatus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Status
}

func TestRealQEMUPausesOnlyWhenAsked(t *testing.T) {
	src := source(t, "10.0")
	look := dial(t, src.QMPPath2())
	t.Run("stay paused", func(t *testing.T) {
		opts := options(src)
		opts.StayPaused = true
		result := saveTo(t, filepath.Join(t.TempDir(), "s"), opts)
		if got := state(t, look); got != qmp.StatePostmigrate || result.RunState != got {
			t.Errorf("the machine is %q and the result says %q, want postmigrate", got, result.RunState)
		}
		if _, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: filepath.Join(t.TempDir(), "s")}, options(src)); !errors.Is(err, qemu.ErrState) {
			t.Errorf("saving a machine that stands still: %v, want ErrState", err)
		}
		if err := look.Cont(t.Context()); err != nil {
			t.Fatal(err)
		}
		runsOn(t, src)
	})
	t.Run("restore paused", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		saveTo(t, path, options(src))
		dst := destination(t, "10.0")
		result, err := qemu.Restore(t.Context(), open(t, path), qemu.RestoreOptions{Monitor: qmp.Socket(dst.QMPPath()), Paused: true})
		if err != nil {
			t.Fatal(err)
		}
		if result.RunState != qmp.StatePaused {
			t.Errorf("restored to %q, want paused", result.RunState)
		}
		if err := dial(t, dst.QMPPath()).Cont(t.Context()); err != nil {
			t.Fatal(err)
		}
		sound(t, dst)
	})
	t.Run("the command at the pause sees it paused", func(t *testing.T) {
		dir := t.TempDir()
		opts := options(src)
		opts.AtPause = fmt.Sprintf("test ! -e $VMFERRY_SNAPSHOT/manifest.json && echo {\\\"execute\\\":\\\"qmp_capabilities\\\"} > %s/ran", dir)
		saveTo(t, filepath.Join(dir, "s"), opts)
		if _, err := os.Stat(filepath.Join(dir, "ran")); err != nil {
			t.Error("the command did not run")
		}
	})
	t.Run("settings are put back", func(t *testing.T) {
		caps, err := look.QueryMigrateCapabilities(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		params, err := look.QueryMigrateParameters(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if caps["multifd"] || *params.MaxBandwidth > 1<<30 {
			t.Errorf("after saves multifd is %v and max-bandwidth %d", caps["multifd"], *params.MaxBandwidth)
		}
	})
}

func TestRealQEMURunsOnWhenASaveFails(t *testing.T) {
	src := source(t, "10.0")
	slow := func() qemu.SaveOptions {
		opts := options(src)
		opts.Bandwidth = 16 << 20
		return opts
	}
	tests := []struct {
		name string
		save func(t *testing.T, path string) error
		want string
	}{
		{"the command at the pause fails", func(t *testing.T, path string) error {
			opts := options(src)
			opts.AtPause = "echo no room for the disk; exit 3"
			_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: path}, opts)
			return err
		}, "no room for the disk"},
		{"it is interrupted", func(t *testing.T, path string) error {
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			defer cancel()
			_, err := vmferry.Save(ctx, vmferry.Snapshot{Path: path}, slow())
			return err
		}, "deadline exceeded"},
		{"it is interrupted at the pause", func(t *testing.T, path string) error {
			opts := options(src)
			opts.AtPause = "sleep 60"
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := vmferry.Save(ctx, vmferry.Snapshot{Path: path}, opts)
			return err
		}, "deadline exceeded"},
		{"the disk is full", func(t *testing.T, path string) error {
			small := t.TempDir()
			if err := syscall.Mount("none", small, "tmpfs", 0, "size=8m"); err != nil {
				t.Fatalf("mounting a small file system (this test needs root): %v", err)
			}
			defer syscall.Unmount(small, syscall.MNT_DETACH)
			_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: filepath.Join(small, "s")}, options(src))
			noSnapshot(t, filepath.Join(small, "s"))
			return err
		}, "no space left on device"},
		{"the directory vanishes", func(t *testing.T, path string) error {
			time.AfterFunc(time.Second, func() { os.RemoveAll(path) })
			_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: path}, slow())
			return err
		}, "no such file or directory"},
		{"the directory is taken", func(t *testing.T, path string) error {
			if err := os.MkdirAll(filepath.Join(path, "something"), 0o700); err != nil {
				t.Fatal(err)
			}
			_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: path}, options(src))
			return err
		}, "not empty"},
		{"QEMU cannot compress that way", func(t *testing.T, path string) error {
			opts := options(src)
			opts.Method = multifd.QPL
			_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: path}, opts)
			if !errors.Is(err, qemu.ErrUnable) {
				t.Errorf("%v is not ErrUnable", err)
			}
			return err
		}, "qpl"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			err := tt.save(t, path)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the error is %v, want one that says %q", err, tt.want)
			}
			noSnapshot(t, path)
			if got := state(t, dial(t, src.QMPPath2())); got != qmp.StateRunning {
				t.Errorf("the machine is %q", got)
			}
			runsOn(t, src)
		})
	}
	t.Run("and can be saved afterwards", func(t *testing.T) {
		saveTo(t, filepath.Join(t.TempDir(), "s"), options(src))
	})
}

func TestRealQEMUThatDiesLeavesNoSnapshot(t *testing.T) {
	src := source(t, "10.0")
	path := filepath.Join(t.TempDir(), "s")
	opts := options(src)
	opts.Bandwidth = 16 << 20
	time.AfterFunc(1500*time.Millisecond, src.Kill)
	_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: path}, opts)
	if !errors.Is(err, qemu.ErrGone) {
		t.Errorf("the error is %v, want ErrGone", err)
	}
	noSnapshot(t, path)
}

func TestRealQEMUThatIsNotLikeTheSavedOneIsRefused(t *testing.T) {
	src := source(t, "10.0")
	path := filepath.Join(t.TempDir(), "s")
	saveTo(t, path, options(src))
	src.Kill()
	r := open(t, path)
	tests := []struct {
		name   string
		change func(*qemutest.Config)
		want   string
	}{
		{"another machine type", func(c *qemutest.Config) { c.Machine = "pc-q35-7.1" }, "pc-q35-7.1"},
		{"another size of memory", func(c *qemutest.Config) { c.MemoryMiB = 2 * guestMiB }, "the snapshot has 160M, this QEMU has 320M"},
		{"not waiting", func(c *qemutest.Config) { c.Incoming = false }, "-incoming defer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config("10.0")
			cfg.MemFile, cfg.Incoming = filepath.Join(t.TempDir(), "ram0"), true
			tt.change(&cfg)
			dst := qemutest.Start(t, cfg)
			ctx := soon(t)
			_, err := qemu.Restore(ctx, r, qemu.RestoreOptions{Monitor: qmp.Socket(dst.QMPPath())})
			if err == nil || !strings.Contains(err.Error()+dst.Stderr(), tt.want) {
				t.Errorf("the error is %v, want one that says %q\n%s", err, tt.want, dst.Stderr())
			}
			if ctx.Err() != nil {
				t.Error("it took more than 2 minutes to be refused")
			}
		})
	}
}

// kills is how often vmferry is killed.
var kills = soak.Times(12, 50)

func TestRealQEMURunsOnWhenVmferryIsKilled(t *testing.T) {
	src := source(t, "10.0")
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	look := dial(t, src.QMPPath2())
	var paused, complete int
	for i := range kills {
		path := filepath.Join(t.TempDir(), "s")
		args := []string{"save", "--qmp", src.QMPPath(), "--channels", "2"}
		// A third of the time the machine is stood still on purpose.
		if i%3 == 0 {
			args = append(args, "--at-pause", "sleep 1")
		} else if i%3 == 1 {
			args = append(args, "--bandwidth", "40000000")
		}
		cmd := exec.Command(program, append(args, path)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := time.Duration(rng.Int64N(int64(2500 * time.Millisecond)))
		if i%3 == 0 {
			// However long it takes until the machine stands still.
			for began := time.Now(); state(t, look) == qmp.StateRunning && time.Since(began) < time.Minute; {
				time.Sleep(10 * time.Millisecond)
			}
			after /= 3
		}
		time.Sleep(after)
		if state(t, look) != qmp.StateRunning {
			paused++
		}
		cmd.Process.Kill()
		killed := time.Now()
		cmd.Wait()
		for state(t, look) != qmp.StateRunning {
			if time.Since(killed) > time.Minute {
				t.Fatalf("kill %d, %v after the start or the pause: the machine is %q after a minute", i, after, state(t, look))
			}
			time.Sleep(20 * time.Millisecond)
		}
		waitMigrationUndone(t, look)
		if _, err := os.Stat(filepath.Join(path, "manifest.json")); err == nil {
			complete++
			if _, err := open(t, path).Verify(t.Context(), nil); err != nil {
				t.Errorf("kill %d: a snapshot with a manifest: %v", i, err)
			}
		}
		runsOn(t, src)
	}
	t.Logf("%d kills: %d while the machine stood still, %d after the snapshot was complete", kills, paused, complete)
	if paused == 0 {
		t.Error("no kill came while the machine stood still")
	}
	waitNoGuard(t)
}

// waitMigrationUndone waits until the guard has ended the migration and restored the settings.
func waitMigrationUndone(t *testing.T, c *qmp.Client) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		m, err := c.QueryMigrate(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if m.Status == "" || m.Ended() || m.Status == qmp.MigrationNone {
			caps, err := c.QueryMigrateCapabilities(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !caps["multifd"] {
				return
			}
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("a minute after the kill the migration is %q and multifd is still on", m.Status)
		}
	}
}

// waitNoGuard checks that guards end.
func waitNoGuard(t *testing.T) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		out, _ := exec.Command("pgrep", "-f", program+" guard").Output()
		if len(bytes.TrimSpace(out)) == 0 {
			return
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("guards are left behind: %s", out)
		}
	}
}
