package qemutest

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"
)

// Config says what machine to start. The zero value is a QEMU 10.0 with
// 256 MiB, a machine type that 7.2 knows too, and a guest that only counts.
type Config struct {
	Version   string // "10.0" (the default), "7.2" or "11.1"
	MemoryMiB int    // guest memory, 256 if zero; 7.2 gets a little less, see MemoryBytes
	Machine   string // "pc-q35-7.2" if empty
	Incoming  bool   // wait for migrate-incoming, as a destination
	Paused    bool   // do not run before QMP's cont

	// MemFile makes this file the guest's memory, shared, so that a test can
	// read it; it is made if it is not there. The RAM block is then called
	// ram0, and otherwise pc.ram. Prealloc touches all of the memory at the
	// start, with and without MemFile.
	MemFile  string
	Prealloc bool

	// The guest's workload: pages written once and only checked afterwards,
	// pages rewritten at random, and how fast. Some 60 MiB of the memory are
	// Linux's own.
	FillMiB, WorkMiB, RateMiBps int

	// MemoryBytes is the exact size, a multiple of 8 KiB. If it is zero,
	// MemoryMiB counts, but a QEMU 7.2 gets 128 KiB less. VM.Config tells
	// which size it became.
	MemoryBytes int64

	ExtraArgs []string // further arguments for QEMU

	// Dir is where the machine's sockets and logs go, into a folder of their
	// own; the system's temporary folder if empty. Keep it short: a socket's
	// path must fit into 107 bytes.
	Dir string

	initrd string // instead of the test guest's
}

func (c Config) withDefaults() Config {
	c.Version = cmp.Or(c.Version, "10.0")
	c.MemoryMiB = cmp.Or(c.MemoryMiB, 256)
	c.Machine = cmp.Or(c.Machine, "pc-q35-7.2")
	if c.MemoryBytes == 0 {
		c.MemoryBytes = int64(c.MemoryMiB) << 20
		if c.Version == "7.2" {
			c.MemoryBytes -= oddSize
		}
	}
	return c
}

// oddSize keeps a block's length from being a multiple of 64 pages. QEMU
// before 9.0 has two ways to collect dirty pages. The one for blocks of whole
// 64 pages forgets, under TCG, to make the emulated TLB report the next write
// to a page, so pages that are written all the time are missed from the
// second round on and the guest arrives corrupt, QEMU to QEMU too. The other
// way does not. KVM has no such TLB.
const oddSize = 128 << 10

// Files of a machine in its folder.
const (
	qmpName    = "qmp"
	qmp2Name   = "qmp2"
	serialName = "serial.log"
	stderrName = "stderr.log"
)

// args gives QEMU's arguments; dir is the machine's folder. Source and
// destination differ in nothing that is part of the machine.
func (c Config) args(kernel, initrd, dir string) []string {
	machine := c.Machine
	var memory []string
	if c.MemFile != "" || c.Prealloc {
		// Without a file, a backend of the default's name keeps the block's
		// name and QEMU's behaviour.
		id, object := "pc.ram", "memory-backend-ram,id=pc.ram"
		if c.MemFile != "" {
			id, object = "ram0", "memory-backend-file,id=ram0,share=on,mem-path="+escapeComma(c.MemFile)
		} else {
			object += ",x-use-canonical-path-for-ramblock-id=off"
		}
		if c.Prealloc {
			object += ",prealloc=on"
		}
		machine += ",memory-backend=" + id
		memory = []string{"-object", fmt.Sprintf("%s,size=%dK", object, c.MemoryBytes>>10)}
	}
	args := []string{
		"-name", "vmferry-test",
		"-nodefaults", "-no-user-config", "-display", "none",
		"-accel", "tcg,thread=single",
		"-smp", "1",
		"-m", fmt.Sprintf("%dK", c.MemoryBytes>>10),
		"-machine", machine,
	}
	args = append(args, memory...)
	args = append(args,
		"-kernel", kernel, "-initrd", initrd,
		"-append", fmt.Sprintf("console=ttyS0 quiet panic=-1 no_timer_check vmferry.fill=%d vmferry.work=%d vmferry.rate=%d", c.FillMiB, c.WorkMiB, c.RateMiBps),
		"-no-reboot",
		"-serial", "file:"+escapeComma(filepath.Join(dir, serialName)),
	)
	for _, name := range []string{qmpName, qmp2Name} {
		args = append(args, "-qmp", "unix:"+escapeComma(filepath.Join(dir, name))+",server=on,wait=off")
	}
	if c.Incoming {
		args = append(args, "-incoming", "defer")
	}
	if c.Paused {
		args = append(args, "-S")
	}
	return append(args, c.ExtraArgs...)
}

// escapeComma doubles the commas in a value, as QEMU's option syntax wants it.
func escapeComma(s string) string { return strings.ReplaceAll(s, ",", ",,") }
