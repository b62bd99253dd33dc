package qemu

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
)

// MismatchError lists how a QEMU differs from the machine in the snapshot, or a
// destination from the source of a migration. It wraps [ErrState].
type MismatchError struct {
	// Differences has a line for each difference, with what the user can do.
	Differences []string

	migration bool
}

func (e *MismatchError) Error() string {
	what, then := "this QEMU differs from the machine that was saved", "nothing was sent (--force restores all the same)"
	if e.migration {
		what, then = "the destination differs from the source", "nothing was sent, and both QEMUs are as they were"
	}
	if len(e.Differences) == 1 {
		return fmt.Sprintf("%v: %s; %s", ErrState, e.Differences[0], then)
	}
	return fmt.Sprintf("%v: %s; %s:\n  %s", ErrState, what, then, strings.Join(e.Differences, "\n  "))
}

func (e *MismatchError) Unwrap() error { return ErrState }

// original is the machine that a QEMU has to be like.
type original struct {
	qemu     string // the version of its QEMU
	hardware *snapshot.Hardware
	blocks   []snapshot.BlockInfo
}

// sides are the names of the original and the QEMU, in messages.
type sides struct {
	had, hadMachine, is, machine string
}

var (
	snapshotAndQEMU      = sides{had: "the snapshot", hadMachine: "the snapshot's machine", is: "this QEMU", machine: "the saved machine"}
	sourceAndDestination = sides{had: "the source", hadMachine: "the source", is: "the destination", machine: "the source"}
)

// comparison collects the differences between an original and a QEMU.
type comparison struct {
	sides
	saved original
	here  *described
	// sameVersion says that both QEMUs have the same major and minor version, so
	// the same options make the same devices.
	sameVersion bool
	differences []string
	// remarks are differences that do not make a restore fail.
	remarks []string
}

func (c *comparison) differ(format string, args ...any) {
	c.differences = append(c.differences, fmt.Sprintf(format, args...))
}

func (c *comparison) remark(format string, args ...any) {
	c.remarks = append(c.remarks, fmt.Sprintf(format, args...))
}

// compareSaved finds how a QEMU differs from the machine that was saved. For a snapshot
// without a record of the hardware it compares the RAM blocks.
func compareSaved(saved *snapshot.Manifest, here *described, version qmp.Version) *comparison {
	c := compare(snapshotAndQEMU, original{qemu: saved.Machine.QEMU, hardware: saved.Machine.Hardware, blocks: saved.Blocks}, here, version)
	if had := saved.Machine.Hardware; had != nil && had.KVM != here.hardware.KVM {
		c.remark("KVM: the snapshot's machine ran %s, this QEMU runs %s", withKVM(had.KVM), withKVM(here.hardware.KVM))
	}
	return c
}

// compare finds how a QEMU of that version differs from an original.
func compare(names sides, saved original, here *described, version qmp.Version) *comparison {
	c := &comparison{
		sides: names, saved: saved, here: here,
		sameVersion: strings.HasPrefix(saved.qemu, fmt.Sprintf("%d.%d.", version.Major, version.Minor)),
	}
	if had := saved.hardware; had != nil {
		is := &here.hardware
		c.compareCPU(&had.CPU, &is.CPU)
		c.compareMemory(had.Memory, is.Memory)
		c.compareDevices(had.Devices, is.Devices)
		if had.KVM == is.KVM && c.sameVersion {
			c.compareOnboard(had.Onboard, is.Onboard)
		}
	}
	c.compareBlocks()
	return c
}

func withKVM(is bool) string {
	if is {
		return "with KVM"
	}
	return "without KVM"
}

func (c *comparison) compareCPU(had, is *snapshot.CPUInfo) {
	if a, b := smpOption(had, is), smpOption(is, had); a != b {
		c.differ("CPUs: %s has %q, %s has %q (start it with \"-smp %s\")", c.had, a, c.is, b, a)
	}
	if had.Type == "" || is.Type == "" {
		return
	}
	model := strings.TrimSuffix(had.Type, "-"+had.Target+"-cpu")
	if had.Type != is.Type {
		c.differ("CPU type: %s has %q, %s has %q (start it with \"-cpu %s\" and the same flags)", c.had, had.Type, c.is, is.Type, model)
		return
	}
	if had.Signature != "" && is.Signature != "" && had.Signature != is.Signature {
		c.differ("CPU vendor, family/model/stepping: %s has %q, %s has %q (start it with the -cpu of %s; \"host\" is another CPU on another host)", c.had, had.Signature, c.is, is.Signature, c.machine)
	}
	if len(had.Features) == 0 || len(is.Features) == 0 {
		return
	}
	if lost := missingFeatures(had.Features, is.Features); len(lost) > 0 {
		c.differ("CPU features: %s has %s, %s has not (start it with the -cpu of %s%s)", c.had, list(lost), c.is, c.machine, cpuOption(model, "+", lost))
	}
	if extra := missingFeatures(is.Features, had.Features); len(extra) > 0 {
		// Another version of QEMU may have more of the same model.
		say := c.remark
		if c.sameVersion {
			say = c.differ
		}
		say("CPU features: %s has %s, %s has not (start it with the -cpu of %s%s)", c.is, list(extra), c.had, c.machine, cpuOption(model, "-", extra))
	}
}

// smpOption returns the CPUs in the form of -smp, with the properties that both sides
// report.
func smpOption(of, other *snapshot.CPUInfo) string {
	if of.Count == 0 || other.Count == 0 {
		return ""
	}
	text := fmt.Sprint(of.Count)
	for _, name := range []string{"maxcpus", "sockets", "dies", "clusters", "modules", "cores", "threads"} {
		n, both := of.Topology[name], other.Topology[name]
		if n == 0 || both == 0 || n == 1 && both == 1 {
			continue
		}
		text += fmt.Sprintf(",%s=%d", name, n)
	}
	return text
}

// missingFeatures names the features that a has and b does not have.
func missingFeatures(a, b map[string]uint32) []string {
	var found []string
	for _, word := range slices.Sorted(maps.Keys(a)) {
		found = append(found, nameFeatures(word, a[word]&^b[word])...)
	}
	return found
}

// cpuOption suggests flags of -cpu, if QEMU has names for all of them and they
// are few.
func cpuOption(model, sign string, features []string) string {
	if len(features) > maxListed || slices.ContainsFunc(features, func(name string) bool { return strings.HasPrefix(name, "CPUID") }) {
		return ""
	}
	return fmt.Sprintf(": \"-cpu %s,%s%s\" if no other flags were given", model, sign, strings.Join(features, ","+sign))
}

// maxListed bounds how much of a long list an error has.
const maxListed = 16

func list(names []string) string {
	if len(names) > maxListed {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxListed], ", "), len(names)-maxListed)
	}
	return strings.Join(names, ", ")
}

func (c *comparison) compareMemory(had, is snapshot.MemoryInfo) {
	if had.Size == 0 || is.Size == 0 {
		return
	}
	if a, b := memoryOption(had), memoryOption(is); a != b {
		c.differ("memory: %s has %s, %s has %s (start it with \"-m %s\")", c.had, a, c.is, b, a)
	}
}

// memoryOption returns the memory in the form of -m.
func memoryOption(m snapshot.MemoryInfo) string {
	text := bytesOption(m.Size)
	if m.Slots > 0 {
		text += fmt.Sprintf(",slots=%d", m.Slots)
	}
	if m.MaxSize > m.Size {
		text += ",maxmem=" + bytesOption(m.MaxSize)
	}
	return text
}

// bytesOption returns the exact size in the form of QEMU's options.
func bytesOption(n uint64) string {
	for _, unit := range []struct {
		shift uint
		name  string
	}{{30, "G"}, {20, "M"}, {10, "K"}} {
		if n != 0 && n&(1<<unit.shift-1) == 0 {
			return fmt.Sprintf("%d%s", n>>unit.shift, unit.name)
		}
	}
	return fmt.Sprintf("%dB", n)
}

func (c *comparison) compareOnboard(had, is map[string]int) {
	if len(had) == 0 || len(is) == 0 {
		return
	}
	kinds := map[string]bool{}
	for _, counts := range []map[string]int{had, is} {
		for kind := range counts {
			kinds[kind] = true
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		if had[kind] != is[kind] {
			c.differ("devices of type %q that the machine itself has: %s has %d, %s has %d (start it with the same -machine, -serial, -drive and -global options)", kind, c.had, had[kind], c.is, is[kind])
		}
	}
}

// compareBlocks compares the RAM blocks: QEMU checks the size of each when the
// migration begins.
func (c *comparison) compareBlocks() {
	if len(c.here.blocks) == 0 {
		return
	}
	here, saved := map[string]qmp.RAMBlock{}, map[string]bool{}
	for _, b := range c.here.blocks {
		here[b.Name] = b
	}
	for _, b := range c.saved.blocks {
		saved[b.Name] = true
	}
	for _, had := range c.saved.blocks {
		is, ok := here[had.Name]
		switch {
		case !ok:
			c.differ("RAM block %q of %s: %s has none of that name%s", had.Name, bytesOption(had.Length), c.is, c.missingBlockHint(had, saved))
		case had.Length != is.Used && !resizes(is, had.Length) && !c.saidByMemory(had.Length, is.Used):
			c.differ("RAM block %q: %s has %s, %s has %s (%s)", had.Name, c.had, bytesOption(had.Length), c.is, bytesOption(is.Used), c.sizeHint(had))
		}
	}
}

// resizes tells whether QEMU changes a block's size to that of the original.
// It does so with the tables that it makes for a guest's firmware.
func resizes(b qmp.RAMBlock, to uint64) bool {
	return to <= b.Max && (b.Used != b.Max || strings.HasPrefix(b.Name, "/rom@"))
}

// saidByMemory tells whether two sizes are those of -m, which compareMemory reports.
func (c *comparison) saidByMemory(had, is uint64) bool {
	h := c.saved.hardware
	return h != nil && had == h.Memory.Size && is == c.here.hardware.Memory.Size
}

func (c *comparison) missingBlockHint(had snapshot.BlockInfo, saved map[string]bool) string {
	if strings.HasSuffix(had.Name, ".rom") {
		return fmt.Sprintf(" (start it with the same device, with its option ROM of %d bytes: romfile=)", had.Length)
	}
	for _, b := range c.here.memoryBlocks() {
		if b.Used == had.Length && !saved[b.Name] {
			return fmt.Sprintf(" but one of that size is called %q (give the memory backend the id that %s has, and the machine the same memory-backend=)", b.Name, c.machine)
		}
	}
	return " (start it with the same memory backends, devices and firmware)"
}

func (c *comparison) sizeHint(b snapshot.BlockInfo) string {
	switch {
	case strings.HasSuffix(b.Name, ".rom"):
		return fmt.Sprintf("start it with the same device and an option ROM of %d bytes: romfile= or romsize=", b.Length)
	case strings.HasPrefix(b.Name, "system.flash"), strings.HasPrefix(b.Name, "pc.bios"), strings.HasPrefix(b.Name, "/rom@"):
		return "start it with the firmware of " + c.machine
	}
	return "start it with the same -m, memory backends and devices"
}
