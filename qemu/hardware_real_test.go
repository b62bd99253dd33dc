//go:build realqemu

package qemu_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
)

// still is a machine that has not run, so that it is saved in no time.
func still(version string, args ...string) qemutest.Config {
	return qemutest.Config{Version: version, MemoryBytes: 64 << 20, Paused: true, ExtraArgs: args}
}

// savedStill saves a machine that has not run.
func savedStill(t *testing.T, cfg qemutest.Config) *snapshot.Reader {
	t.Helper()
	src := qemutest.Start(t, cfg)
	path := filepath.Join(t.TempDir(), "snapshot")
	saveTo(t, path, options(src))
	src.Kill()
	return open(t, path)
}

// restoreInto restores into a new QEMU and returns what was logged.
func restoreInto(t *testing.T, r *snapshot.Reader, cfg qemutest.Config, opts qemu.RestoreOptions) (dst *qemutest.VM, logged string, err error) {
	t.Helper()
	cfg.Incoming, cfg.Paused = true, false
	dst = qemutest.Start(t, cfg)
	var log bytes.Buffer
	opts.Monitor, opts.Logger = qmp.Socket(dst.QMPPath()), slog.New(slog.NewTextHandler(&log, nil))
	_, err = qemu.Restore(soon(t), r, opts)
	return dst, log.String(), err
}

// A device set whose parts the cases below change one at a time.
var (
	cpuArgs = []string{"-cpu", "qemu64,+aes"}
	netArgs = []string{"-device", "virtio-net-pci,id=net0,addr=02.0"}
	rngArgs = []string{"-device", "virtio-rng-pci,addr=03.0"}
)

func machineArgs() []string { return slices.Concat(cpuArgs, netArgs, rngArgs) }

func TestRealQEMURestoreNamesEachDifference(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*qemutest.Config)
		want   []string
	}{
		{"CPU type", func(c *qemutest.Config) {
			c.ExtraArgs = slices.Concat([]string{"-cpu", "Nehalem"}, netArgs, rngArgs)
		}, []string{`CPU type: the snapshot has "qemu64-x86_64-cpu", this QEMU has "Nehalem-x86_64-cpu" (start it with "-cpu qemu64"`}},
		{"CPU flags", func(c *qemutest.Config) {
			c.ExtraArgs = slices.Concat([]string{"-cpu", "qemu64,+popcnt"}, netArgs, rngArgs)
		}, []string{"CPU features: the snapshot has aes, this QEMU has not", "CPU features: this QEMU has popcnt, the snapshot has not"}},
		{"number of CPUs", func(c *qemutest.Config) { c.ExtraArgs = append(c.ExtraArgs, "-smp", "2") }, []string{`CPUs: the snapshot has "1`, `-smp 1`}},
		{"memory", func(c *qemutest.Config) { c.MemoryBytes = 80 << 20 }, []string{"memory: the snapshot has 64M, this QEMU has 80M", `"-m 64M"`}},
		{"places for memory", func(c *qemutest.Config) { c.ExtraArgs = append(c.ExtraArgs, "-m", "65536K,slots=2,maxmem=1G") }, []string{"this QEMU has 64M,slots=2,maxmem=1G"}},
		{"a missing device", func(c *qemutest.Config) { c.ExtraArgs = slices.Concat(cpuArgs, rngArgs) }, []string{`device "net0" of type "virtio-net-pci"`, "this QEMU has none", `RAM block "0000:00:02.0/virtio-net-pci.rom"`}},
		{"a device more", func(c *qemutest.Config) { c.ExtraArgs = append(c.ExtraArgs, "-device", "virtio-balloon-pci,id=b0") }, []string{`device "b0" of type "virtio-balloon-pci"`, "the snapshot's machine had not"}},
		{"another id", func(c *qemutest.Config) {
			c.ExtraArgs = slices.Concat(cpuArgs, []string{"-device", "virtio-net-pci,id=net1,addr=02.0"}, rngArgs)
		}, []string{`device "net0" of type "virtio-net-pci"`, `the id "net1"`}},
		{"another address", func(c *qemutest.Config) {
			c.ExtraArgs = slices.Concat(cpuArgs, netArgs, []string{"-device", "virtio-rng-pci,addr=05.0"})
		}, []string{`device "virtio-rng-pci" on bus "pcie.0" at "03.0": this QEMU has it on bus "pcie.0" at "05.0"`}},
		{"no ROM", func(c *qemutest.Config) {
			c.ExtraArgs = slices.Concat(cpuArgs, []string{"-device", "virtio-net-pci,id=net0,addr=02.0,romfile="}, rngArgs)
		}, []string{`RAM block "0000:00:02.0/virtio-net-pci.rom"`, "romfile="}},
		{"a larger ROM", func(c *qemutest.Config) {
			c.ExtraArgs = slices.Concat(cpuArgs, []string{"-device", "virtio-net-pci,id=net0,addr=02.0,romsize=1048576"}, rngArgs)
		}, []string{`RAM block "0000:00:02.0/virtio-net-pci.rom": the snapshot has 256K, this QEMU has 1M`}},
		{"another memory backend", func(c *qemutest.Config) { c.MemFile = "ram0" }, []string{`RAM block "pc.ram" of 64M: this QEMU has none of that name but one of that size is called "ram0"`}},
		{"a serial port more", func(c *qemutest.Config) { c.ExtraArgs = append(c.ExtraArgs, "-serial", "null") }, []string{`devices of type "isa-serial" that the machine itself has: the snapshot has 1, this QEMU has 2`}},
		{"machine type", func(c *qemutest.Config) { c.Machine = "pc-q35-7.1" }, []string{`a machine "pc-q35-7.2", this QEMU has "pc-q35-7.1"`}},
	}
	for _, version := range []string{"7.2", "10.0"} {
		t.Run(version, func(t *testing.T) {
			r := savedStill(t, still(version, machineArgs()...))
			for _, test := range tests {
				t.Run(test.name, func(t *testing.T) {
					cfg := still(version, machineArgs()...)
					test.change(&cfg)
					if cfg.MemFile != "" {
						cfg.MemFile = filepath.Join(t.TempDir(), cfg.MemFile)
					}
					dst, _, err := restoreInto(t, r, cfg, qemu.RestoreOptions{})
					defer dst.Kill()
					mismatch, ok := errors.AsType[*qemu.MismatchError](err)
					if !ok || !errors.Is(err, qemu.ErrState) {
						t.Fatalf("got %v, want a MismatchError", err)
					}
					for _, want := range test.want {
						if !strings.Contains(err.Error(), want) {
							t.Errorf("the error does not say %q:\n%v", want, err)
						}
					}
					if len(mismatch.Differences) > 3 {
						t.Errorf("one change gives %d differences:\n%v", len(mismatch.Differences), err)
					}
					untouched(t, dst)
				})
			}
			t.Run("no difference", func(t *testing.T) {
				dst, logged, err := restoreInto(t, r, still(version, machineArgs()...), qemu.RestoreOptions{})
				if err != nil || logged != "" {
					t.Errorf("got %v and a log of %q, want neither", err, logged)
				}
				dst.Kill()
			})
		})
	}
}

// untouched checks that no migration has reached a destination.
func untouched(t *testing.T, dst *qemutest.VM) {
	t.Helper()
	c := dial(t, dst.QMPPath())
	if got := state(t, c); got != qmp.StateInmigrate {
		t.Errorf("the destination is %q, want inmigrate", got)
	}
	if m, err := c.QueryMigrate(t.Context()); err != nil || m.Status != "" && m.Status != qmp.MigrationNone {
		t.Errorf("the destination has a migration: %q, %v", m.Status, err)
	}
}

func TestRealQEMURestoresByForce(t *testing.T) {
	t.Run("what QEMU takes", func(t *testing.T) {
		r := savedStill(t, still("10.0", machineArgs()...))
		cfg := still("10.0", slices.Concat(cpuArgs, []string{"-device", "virtio-net-pci,id=net1,addr=02.0"}, rngArgs)...)
		dst, logged, err := restoreInto(t, r, cfg, qemu.RestoreOptions{Force: true})
		if err != nil {
			t.Fatalf("%v\n%s", err, dst.Stderr())
		}
		if strings.Count(logged, "level=WARN") != 1 || !strings.Contains(logged, "net1") {
			t.Errorf("want one warning, of the id; logged:\n%s", logged)
		}
	})
	for version, want := range map[string]error{"7.2": qemu.ErrGone, "10.0": nil} {
		t.Run("what QEMU does not take/"+version, func(t *testing.T) {
			r := savedStill(t, still(version))
			cfg := still(version)
			cfg.MemoryBytes *= 2
			dst, _, err := restoreInto(t, r, cfg, qemu.RestoreOptions{Force: true})
			if err == nil {
				t.Fatal("a machine with twice the memory was restored")
			}
			if want != nil {
				if !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
				return
			}
			for _, want := range []string{"load of migration failed", `"inmigrate"`, "quit"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			if got := state(t, dial(t, dst.QMPPath())); got != qmp.StateInmigrate {
				t.Errorf("the destination is %q", got)
			}
		})
	}
}

// A snapshot of an older vmferry, or one that was received, has no record.
func TestRealQEMURestoresWithoutARecordOfTheHardware(t *testing.T) {
	r := savedStill(t, still("10.0", machineArgs()...))
	r.Manifest().Machine.Hardware = nil
	cfg := still("10.0", machineArgs()...)
	cfg.MemoryBytes *= 2
	dst, _, err := restoreInto(t, r, cfg, qemu.RestoreOptions{})
	if err == nil || !strings.Contains(err.Error(), `RAM block "pc.ram": the snapshot has 64M, this QEMU has 128M`) {
		t.Errorf("with twice the memory: %v", err)
	}
	untouched(t, dst)
	if _, _, err := restoreInto(t, r, still("10.0", machineArgs()...), qemu.RestoreOptions{}); err != nil {
		t.Error(err)
	}
}

func TestRealQEMURestoreWarnsOfFirmwareVariables(t *testing.T) {
	for _, version := range []string{"7.2", "10.0"} {
		t.Run(version, func(t *testing.T) {
			dir := t.TempDir()
			file := func(name string, filled byte, size int) string {
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, bytes.Repeat([]byte{filled}, size), 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			code := file("code", 0xff, 256<<10)
			args := func(vars string) []string {
				return []string{
					"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + code,
					"-drive", "if=pflash,unit=1,format=raw,file=" + vars,
				}
			}
			r := savedStill(t, still(version, args(file("saved", 'a', 128<<10))...))
			other := file("other", 'b', 128<<10)
			dst, logged, err := restoreInto(t, r, still(version, args(other)...), qemu.RestoreOptions{})
			if err != nil {
				t.Fatalf("%v\n%s", err, dst.Stderr())
			}
			if strings.Count(logged, "UEFI variables") != 1 || !strings.Contains(logged, other) || strings.Contains(logged, code) {
				t.Errorf("want one warning, of %s; logged:\n%s", other, logged)
			}
			// That is what the warning says.
			if err := dial(t, dst.QMPPath()).Cont(t.Context()); err != nil {
				t.Fatal(err)
			}
			dst.Kill()
			if got, err := os.ReadFile(other); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{'a'}, 128<<10)) {
				t.Errorf("the destination's variables are not those of the snapshot: %v, %q...", err, got[:min(len(got), 16)])
			}
		})
	}
}

func TestRealQEMUSaveRefusesDevices(t *testing.T) {
	dir := t.TempDir()
	disk, shared := filepath.Join(dir, "disk"), filepath.Join(dir, "shared")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	backend := []string{"-object", "memory-backend-file,id=m,share=on,size=32M,mem-path=" + shared}
	virtioMem := []string{"-object", "memory-backend-ram,id=m,size=32M", "-m", "65536K,maxmem=1G", "-device"}
	tests := []struct {
		name, version, machine string
		args                   []string
		want                   []string // of the error; nothing if the machine is saved
	}{
		{"nvme", "10.0", "", []string{"-drive", "if=none,id=d,format=raw,file=" + disk, "-device", "nvme,id=n0,serial=1,drive=d"}, []string{`"n0"`, "nvme", "virtio-blk"}},
		{"nvme", "7.2", "", []string{"-drive", "if=none,id=d,format=raw,file=" + disk, "-device", "nvme,id=n0,serial=1,drive=d"}, []string{`"n0"`, "nvme", "virtio-blk"}},
		{"ivshmem", "10.0", "", append(backend, "-device", "ivshmem-plain,id=i0,memdev=m"), []string{`"i0"`, "ivshmem-plain", "master=on"}},
		{"ivshmem", "7.2", "", append(backend, "-device", "ivshmem-plain,id=i0,memdev=m"), []string{`"i0"`, "ivshmem-plain", "master=on"}},
		{"ivshmem master", "10.0", "", append(backend, "-device", "ivshmem-plain,id=i0,memdev=m,master=on"), []string{`"i0"`, "ivshmem-plain", "KVM"}},
		{"ivshmem master", "7.2", "", append(backend, "-device", "ivshmem-plain,id=i0,memdev=m,master=on"), nil},
		{"virtio-pmem", "10.0", "", append(backend, "-m", "65536K,maxmem=1G", "-device", "virtio-pmem-pci,id=p0,memdev=m"), []string{`"p0"`, "virtio-pmem-pci", "KVM"}},
		{"virtio-pmem", "7.2", "", append(backend, "-m", "65536K,maxmem=1G", "-device", "virtio-pmem-pci,id=p0,memdev=m"), nil},
		{"nvdimm", "10.0", "pc-q35-7.2,nvdimm=on", append(backend, "-m", "65536K,slots=1,maxmem=1G", "-device", "nvdimm,id=v0,memdev=m"), []string{`"v0"`, "nvdimm", "KVM"}},
		{"nvdimm", "7.2", "pc-q35-7.2,nvdimm=on", append(backend, "-m", "65536K,slots=1,maxmem=1G", "-device", "nvdimm,id=v0,memdev=m"), nil},
		{"virtio-mem early", "10.0", "pc-q35-10.0", append(virtioMem, "virtio-mem-pci,id=vm0,memdev=m,requested-size=0"), []string{`"vm0"`, "x-early-migration=off"}},
		{"virtio-mem late", "10.0", "pc-q35-10.0", append(virtioMem, "virtio-mem-pci,id=vm0,memdev=m,requested-size=0,x-early-migration=off"), nil},
		{"virtio-mem", "7.2", "", append(virtioMem, "virtio-mem-pci,id=vm0,memdev=m,requested-size=0"), nil},
	}
	for _, test := range tests {
		t.Run(test.name+"/"+test.version, func(t *testing.T) {
			cfg := still(test.version, test.args...)
			cfg.Machine = test.machine
			src := qemutest.Start(t, cfg)
			defer src.Kill()
			path := filepath.Join(t.TempDir(), "snapshot")
			_, err := vmferry.Save(soon(t), vmferry.Snapshot{Path: path}, options(src))
			if len(test.want) == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, qemu.ErrUnable) {
				t.Fatalf("got %v, want ErrUnable", err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			noSnapshot(t, path)
			if got := state(t, dial(t, src.QMPPath())); got != qmp.StatePrelaunch {
				t.Errorf("the machine is %q after a save that was refused, want prelaunch", got)
			}
		})
	}
}

// Without KVM a QEMU 10.0 aborts when it looks for dirty pages of a block of
// memory behind another one, or misses writes to it. A backend that no option
// uses is enough to move the main memory.
func TestRealQEMUWithSeveralMemoryBlocksIsPausedAndLives(t *testing.T) {
	cfg := config("10.0")
	cfg.ExtraArgs = []string{"-object", "memory-backend-ram,id=m,size=64M"}
	src := qemutest.Start(t, cfg)
	if err := src.WaitReady(soon(t)); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	opts := options(src)
	opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
	path := filepath.Join(t.TempDir(), "snapshot")
	saveTo(t, path, opts)
	if !strings.Contains(log.String(), "the machine is paused while it is saved") {
		t.Errorf("nothing says that the machine is paused:\n%s", log.String())
	}
	runsOn(t, src)
	dst, _, err := restoreInto(t, open(t, path), cfg, qemu.RestoreOptions{})
	if err != nil {
		t.Fatalf("%v\n%s", err, dst.Stderr())
	}
	sound(t, dst)
}

func TestRealQEMURestoreWaitsForAQEMUThatStarts(t *testing.T) {
	r := savedStill(t, still("10.0"))
	link := filepath.Join(t.TempDir(), "qmp")
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()
	go func() {
		_, err := qemu.Restore(ctx, r, qemu.RestoreOptions{Monitor: qmp.Socket(link), ConnectTimeout: time.Minute})
		done <- err
	}()
	cfg := still("10.0")
	cfg.Incoming, cfg.Paused = true, false
	dst := qemutest.Start(t, cfg)
	select {
	case err := <-done:
		t.Fatalf("the restore did not wait: %v", err)
	default:
	}
	if err := os.Symlink(dst.QMPPath(), link); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
