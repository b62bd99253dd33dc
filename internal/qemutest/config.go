package qemutest

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"
)

// Config describes the machine to start. The zero value is a QEMU 10.0 with 256 MiB, a
// machine type that 7.2 has too, and a guest that only counts.
type Config struct {
	Version   string // "10.0" (the default), "7.2" or "11.1"
	MemoryMiB int    // guest memory, 256 if zero; 7.2 gets 128 KiB less, see MemoryBytes
	Machine   string // "pc-q35-7.2" if empty
	Incoming  bool   // wait for migrate-incoming, as a destination
	Paused    bool   // do not run before the QMP command cont

	// MemFile is a file that becomes the guest's memory, shared, so that a test can
	// read it. QEMU makes the file if it does not exist. The name of the RAM block is
	// ram0 with MemFile, and pc.ram without. Prealloc touches all memory at the
	// start, with and without MemFile.
	MemFile  string
	Prealloc bool

	// The guest's workload: the size of the pages that it writes once and checks, the
	// size of the pages that it rewrites at random, and the rate of the rewriting.
	// Linux itself uses about 60 MiB.
	FillMiB, WorkMiB, RateMiBps int

	// PartPercent is the percentage of the rewritten pages of which only a few places
	// change: a counter, some fields, some words of text. All of the others changes.
	PartPercent int

	// MemoryBytes is the exact size of the memory, a multiple of 8 KiB. If it is
	// zero, MemoryMiB is the size, less 128 KiB for a QEMU 7.2. VM.Config returns
	// the size that was used.
	MemoryBytes int64

	ExtraArgs []string // further arguments for QEMU

	// Launcher is the command that starts QEMU, such as "ip netns exec NAME", with its
	// arguments. It must become QEMU (exec). QEMU is started directly if it is empty.
	Launcher []string

	// Dir is the folder in which the machine gets a folder for its sockets and logs;
	// the system's temporary folder if empty. Keep it short: the path of a socket
	// must fit into 107 bytes.
	Dir string

	initrd string // replaces the image of the test guest
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

// oddSize makes the length of a block no multiple of 64 pages. QEMU before 9.0 has two
// ways to collect dirty pages. The way for blocks that are a multiple of 64 pages does not,
// under TCG, make the emulated TLB report the next write to a page. So from the second
// round on it misses pages that are written all the time, and the guest arrives corrupt,
// from QEMU to QEMU too. The other way has no such bug, and KVM has no such TLB.
const oddSize = 128 << 10

// Files of a machine in its folder.
const (
	qmpName    = "qmp"
	qmp2Name   = "qmp2"
	serialName = "serial.log"
	stderrName = "stderr.log"
)

// args returns QEMU's arguments. dir is the machine's folder. The arguments of source and
// destination differ only in Incoming.
func (c Config) args(kernel, initrd, dir string) []string {
	machine := c.Machine
	var memory []string
	if c.MemFile != "" || c.Prealloc {
		// Without a file, a backend with the default name keeps the name of the RAM
		// block and QEMU's behaviour.
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
		"-append", c.KernelArgs(),
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

// KernelArgs returns the kernel's command line, which has the guest's workload.
func (c Config) KernelArgs() string {
	args := fmt.Sprintf("console=ttyS0 quiet panic=-1 no_timer_check vmferry.fill=%d vmferry.work=%d vmferry.rate=%d", c.FillMiB, c.WorkMiB, c.RateMiBps)
	if c.PartPercent > 0 {
		args += fmt.Sprintf(" vmferry.part=%d", c.PartPercent)
	}
	return args
}

// escapeComma doubles the commas in a value, as QEMU's option syntax requires.
func escapeComma(s string) string { return strings.ReplaceAll(s, ",", ",,") }
