package qmp

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// HumanMonitor runs a line of QEMU's monitor for people and returns the text that it
// prints, also if the line is wrong. The text has no fixed form.
func (vm *Machine) HumanMonitor(ctx context.Context, line string) (string, error) {
	var text string
	err := vm.Execute(ctx, "human-monitor-command", map[string]string{"command-line": line}, &text)
	return text, err
}

// PhysicalRAM is a range of guest-physical addresses that is RAM.
type PhysicalRAM struct {
	Start, Size uint64
	Block       string // name of the RAM block
	Offset      uint64 // of Start in the block
}

// QueryPhysicalRAM lists where the machine has RAM, without ROM and without the memory of
// passed-through devices. No other address may be read: reading a register changes a
// device. QEMU prints the list for people: QueryPhysicalRAM leaves out a line that it
// cannot parse.
func (vm *Machine) QueryPhysicalRAM(ctx context.Context) ([]PhysicalRAM, error) {
	text, err := vm.HumanMonitor(ctx, "info mtree -f")
	if err != nil {
		return nil, err
	}
	return parsePhysicalRAM(text), nil
}

// ramRangeLine is a range of RAM in a flat view.
var ramRangeLine = regexp.MustCompile(`^\s+([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?[0-9]+, (?:nv-)?ram\): (\S.*?)(?: @([0-9a-f]{16}))?(?: KVM| HVF| hvf)?\s*$`)

// parsePhysicalRAM takes the ranges of the flat view that is the address space "memory".
func parsePhysicalRAM(text string) (list []PhysicalRAM) {
	memory := false
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "FlatView"):
			memory = false
		case strings.HasPrefix(line, ` AS "memory",`):
			memory = true
		case memory:
			if r, ok := parseRAMRange(line); ok {
				list = append(list, r)
			}
		}
	}
	return list
}

func parseRAMRange(line string) (r PhysicalRAM, ok bool) {
	m := ramRangeLine.FindStringSubmatch(line)
	if m == nil {
		return r, false
	}
	// Sixteen hexadecimal digits always fit.
	first, _ := strconv.ParseUint(m[1], 16, 64)
	last, _ := strconv.ParseUint(m[2], 16, 64)
	r.Offset, _ = strconv.ParseUint(m[4], 16, 64) // "" is 0
	if last < first || last-first == math.MaxUint64 {
		return r, false
	}
	r.Start, r.Size, r.Block = first, last-first+1, m[3]
	return r, r.Offset <= math.MaxUint64-r.Size
}

// wordBytes is the size of the words that QEMU prints.
const wordBytes = 8

// DumpPhysical copies guest-physical memory into dst, whose length is a multiple of 8. The
// range must be RAM, see QueryPhysicalRAM. QEMU prints the bytes as text and holds its big
// lock meanwhile, for about a millisecond with 4 KiB. Words are stored as a little-endian
// machine has them.
//
// The command pmemsave is faster, but writes to a file: a regular file keeps guest memory
// when this process is killed, and a FIFO that this process no longer reads blocks QEMU.
func (vm *Machine) DumpPhysical(ctx context.Context, addr uint64, dst []byte) error {
	text, err := vm.HumanMonitor(ctx, fmt.Sprintf("xp /%dgx 0x%x", len(dst)/wordBytes, addr))
	if err != nil {
		return err
	}
	if !parseDump(text, dst) {
		return fmt.Errorf("qmp: the monitor's xp printed no %d bytes of memory at 0x%x: %.80q", len(dst), addr, text)
	}
	return nil
}

// parseDump stores the words of lines such as "ADDRESS: 0xWORD 0xWORD". It reports whether
// the words fill dst.
func parseDump(text string, dst []byte) bool {
	n := 0
	for line := range strings.Lines(text) {
		_, words, ok := strings.Cut(line, ":")
		if !ok {
			return false
		}
		for word := range strings.FieldsSeq(words) {
			digits, ok := strings.CutPrefix(word, "0x")
			v, err := strconv.ParseUint(digits, 16, 64)
			if !ok || err != nil || n+wordBytes > len(dst) {
				return false
			}
			binary.LittleEndian.PutUint64(dst[n:], v)
			n += wordBytes
		}
	}
	return n == len(dst)
}
