package qmp

import (
	"context"
	"regexp"
	"strconv"
	"strings"
)

// QomProperty is a property or a child of an object of QEMU's object tree. A
// child has the type "child<TYPE>".
type QomProperty struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// Child returns the type of a child object; ok is false for other properties.
func (p QomProperty) Child() (kind string, ok bool) {
	kind, ok = strings.CutPrefix(p.Type, "child<")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(kind, ">")
}

// QomList lists the properties and children of an object of QEMU's object
// tree, such as "/machine/peripheral".
func (vm *Machine) QomList(ctx context.Context, path string) ([]QomProperty, error) {
	var list []QomProperty
	err := vm.Execute(ctx, "qom-list", map[string]string{"path": path}, &list)
	return list, err
}

// MachineType is a machine type that a QEMU has. Alias is another name for it, such as
// "q35"; mostly empty.
type MachineType struct {
	Name  string `json:"name"`
	Alias string `json:"alias"`
}

// QueryMachines lists the machine types that this QEMU has.
func (vm *Machine) QueryMachines(ctx context.Context) ([]MachineType, error) {
	var list []MachineType
	err := vm.Execute(ctx, "query-machines", nil, &list)
	return list, err
}

// CPU is one virtual CPU.
type CPU struct {
	Index  int    `json:"cpu-index"`
	Path   string `json:"qom-path"`
	Target string `json:"target"` // such as "x86_64"
}

// QueryCPUs lists the virtual CPUs that are plugged in, and interrupts none.
func (vm *Machine) QueryCPUs(ctx context.Context) ([]CPU, error) {
	var list []CPU
	err := vm.Execute(ctx, "query-cpus-fast", nil, &list)
	return list, err
}

// MemorySize is how much memory the machine has, in bytes.
type MemorySize struct {
	Base    uint64 `json:"base-memory"`    // of -m
	Plugged uint64 `json:"plugged-memory"` // of devices
}

// QueryMemorySize returns how much memory the machine has.
func (vm *Machine) QueryMemorySize(ctx context.Context) (MemorySize, error) {
	var s MemorySize
	err := vm.Execute(ctx, "query-memory-size-summary", nil, &s)
	return s, err
}

// QueryKVM tells whether KVM runs the machine.
func (vm *Machine) QueryKVM(ctx context.Context) (bool, error) {
	var kvm struct {
		Enabled bool `json:"enabled"`
	}
	err := vm.Execute(ctx, "query-kvm", nil, &kvm)
	return kvm.Enabled, err
}

// Drive is a block device of the machine with its backend.
type Drive struct {
	Device   string         `json:"device"`
	Qdev     string         `json:"qdev"` // the device's id or path in QEMU's object tree
	Inserted *InsertedMedia `json:"inserted"`
}

// InsertedMedia is the backend of a drive.
type InsertedMedia struct {
	File     string `json:"file"`
	ReadOnly bool   `json:"ro"`
	Driver   string `json:"drv"`
}

// QueryBlock lists the drives.
func (vm *Machine) QueryBlock(ctx context.Context) ([]Drive, error) {
	var list []Drive
	err := vm.Execute(ctx, "query-block", nil, &list)
	return list, err
}

// BlockExport is a disk that QEMU serves to other programs.
type BlockExport struct {
	ID   string `json:"id"`
	Node string `json:"node-name"`
	Type string `json:"type"` // such as nbd
}

// QueryBlockExports lists the exported disks. QEMU has the command since 5.2.
func (vm *Machine) QueryBlockExports(ctx context.Context) ([]BlockExport, error) {
	var list []BlockExport
	err := vm.Execute(ctx, "query-block-exports", nil, &list)
	return list, err
}

// RAMBlock is a RAM block of QEMU.
type RAMBlock struct {
	Name   string
	Offset uint64 // in QEMU's space of RAM addresses
	Used   uint64 // bytes that travel in a migration
	Max    uint64 // bytes that a resizable block can grow to; Used for others
}

// QueryRAMBlocks lists the RAM blocks. QEMU has the command since 6.2,
// under a name that may change. The answer is text: QueryRAMBlocks leaves out a line
// that it cannot parse.
func (vm *Machine) QueryRAMBlocks(ctx context.Context) ([]RAMBlock, error) {
	var answer struct {
		Text string `json:"human-readable-text"`
	}
	if err := vm.Execute(ctx, "x-query-ramblock", nil, &answer); err != nil {
		return nil, err
	}
	var blocks []RAMBlock
	for line := range strings.Lines(answer.Text) {
		if b, ok := parseRAMBlock(line); ok {
			blocks = append(blocks, b)
		}
	}
	return blocks, nil
}

// ramBlockLine is a name, a page size with its unit, and three numbers; newer
// QEMUs add columns.
var ramBlockLine = regexp.MustCompile(`^\s*(\S.*?)\s+\d+ \S+\s+0x([0-9a-f]{1,16})\s+0x([0-9a-f]{1,16})\s+0x([0-9a-f]{1,16})(?:\s|$)`)

func parseRAMBlock(line string) (b RAMBlock, ok bool) {
	m := ramBlockLine.FindStringSubmatch(line)
	if m == nil {
		return b, false
	}
	b.Name = m[1]
	for i, n := range []*uint64{&b.Offset, &b.Used, &b.Max} {
		v, err := strconv.ParseUint(m[i+2], 16, 64)
		if err != nil {
			return b, false
		}
		*n = v
	}
	return b, true
}

// MigrateIncomingAndStay is [Machine.MigrateIncoming] for QEMU 9.1 and later,
// where a QEMU that cannot load the machine does not exit: query-migrate returns the
// reason.
func (vm *Machine) MigrateIncomingAndStay(ctx context.Context, uri string) error {
	return vm.Execute(ctx, "migrate-incoming", map[string]any{"uri": uri, "exit-on-error": false}, nil)
}
