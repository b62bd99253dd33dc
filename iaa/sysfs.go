package iaa

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Discover lists the accelerators and work queues in sysfs. It opens no queue; Probe
// finds the problems that only opening shows (busy, mmap refused). An error means that
// sysfs could not be read; a machine without accelerators gives an empty inventory with
// a problem.
func Discover(opts Options) (*Inventory, error) {
	opts = opts.withDefaults()
	inv := &Inventory{Instructions: opts.System.Instructions()}
	entries, err := os.ReadDir(opts.SysfsRoot)
	if errors.Is(err, fs.ErrNotExist) {
		inv.Problem = &Problem{ReasonNoDriver, "the kernel's idxd driver is not loaded (" + opts.SysfsRoot + " does not exist)",
			"run modprobe idxd on a machine with IAA, kernel option intel_iommu=on,sm_on"}
		return inv, nil
	}
	if err != nil {
		return nil, fmt.Errorf("iaa: list accelerators: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "iax") {
			inv.Devices = append(inv.Devices, readDevice(opts, e.Name()))
		}
	}
	slices.SortFunc(inv.Devices, func(a, b DeviceInfo) int { return compareNames(a.Name, b.Name) })
	if len(inv.Devices) == 0 {
		inv.Problem = &Problem{ReasonNoDevice, "the idxd driver shows no IAA device",
			"check that the processor has IAA and that the firmware enables it"}
	}
	return inv, nil
}

// attrs reads attribute files of one directory. The first unreadable required
// one is kept as an error.
type attrs struct {
	dir string
	err error
}

func (a *attrs) text(name string) string {
	s, ok := a.optional(name)
	if !ok && a.err == nil {
		a.err = fmt.Errorf("attribute %s cannot be read", filepath.Join(a.dir, name))
	}
	return s
}

func (a *attrs) optional(name string) (string, bool) {
	b, err := os.ReadFile(filepath.Join(a.dir, name))
	return strings.TrimSpace(string(b)), err == nil
}

// number reads an attribute in decimal, or in hex with a leading 0x.
func (a *attrs) number(name string) uint64 {
	s := a.text(name)
	if a.err != nil {
		return 0
	}
	return a.parse(name, s, 0)
}

func (a *attrs) parse(name, s string, base int) uint64 {
	v, err := strconv.ParseUint(s, base, 64)
	if err != nil && a.err == nil {
		a.err = fmt.Errorf("attribute %s is %q, not a number", filepath.Join(a.dir, name), s)
	}
	return v
}

// hex reads an attribute that is hex with or without 0x.
func (a *attrs) hex(name string) uint64 {
	s := a.text(name)
	if a.err != nil {
		return 0
	}
	return a.parse(name, strings.TrimPrefix(s, "0x"), 16)
}

// maxEntries bounds numbers that are used as sizes. Devices have far fewer.
const maxEntries = 1 << 16

func (a *attrs) small(name string) int {
	v := a.number(name)
	if v > maxEntries && a.err == nil {
		a.err = fmt.Errorf("attribute %s is %d (want at most %d)", filepath.Join(a.dir, name), v, maxEntries)
	}
	return int(min(v, maxEntries))
}

func readDevice(opts Options, name string) DeviceInfo {
	a := &attrs{dir: filepath.Join(opts.SysfsRoot, name)}
	d := DeviceInfo{
		Name:        name,
		State:       a.text("state"),
		PASID:       a.number("pasid_enabled") == 1,
		GenCap:      a.hex("gen_cap"),
		Version:     uint32(a.hex("version")),
		Engines:     a.small("max_engines"),
		MaxQueues:   a.small("max_work_queues"),
		MaxEntries:  a.small("max_work_queues_size"),
		MaxTransfer: a.number("max_transfer_size"),
		Node:        -1,
	}
	if s, ok := a.optional("numa_node"); ok {
		if n, err := strconv.Atoi(s); err == nil {
			d.Node = n
		}
	}
	if s, ok := a.optional("iaa_cap"); ok {
		d.IAACap, _ = strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 64)
	}
	d.Problem = deviceProblem(&d, a)
	for _, dir := range queueDirs(a.dir) {
		q := readQueue(opts, &d, dir)
		if d.Problem != nil {
			q.Problem = d.Problem
		}
		d.Queues = append(d.Queues, q)
	}
	if d.Problem == nil && len(d.Queues) == 0 {
		d.Problem = &Problem{ReasonNoQueue, "the device has no work queue",
			"configure one with accel-config config-wq and accel-config enable-wq"}
	}
	return d
}

func deviceProblem(d *DeviceInfo, a *attrs) *Problem {
	switch {
	case a.err != nil:
		return &Problem{ReasonUnreadable, a.err.Error(), "the kernel may be too old for this driver (5.18 or later is needed)"}
	case d.State != "enabled":
		return &Problem{ReasonDisabled, fmt.Sprintf("the device is %s", d.State),
			"run accel-config enable-device " + d.Name}
	case !d.PASID:
		return &Problem{ReasonNoPASID, "the device runs without PASIDs, so it cannot use a process's memory",
			"boot with intel_iommu=on,sm_on and enable VT-d and PASID in the firmware"}
	case limitOf(d.MaxTransfer) < osPage:
		return &Problem{ReasonTransfer, fmt.Sprintf("the device transfers %d bytes at most, less than a page of %d", d.MaxTransfer, osPage), "use another device"}
	case !offers(a, OpCompress) || !offers(a, OpDecompress):
		return &Problem{ReasonNoDevice, "the device does not offer COMPRESS and DECOMPRESS", "use another device"}
	}
	return nil
}

// offers looks an opcode up in op_cap, 256 bits as groups of 32 in hex, the highest
// first. If the kernel does not have the attribute, the device is assumed to be an IAA.
func offers(a *attrs, op Opcode) bool {
	s, ok := a.optional("op_cap")
	if !ok {
		return true
	}
	words := strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
	i := len(words) - 1 - int(op)/32
	if i < 0 {
		return false
	}
	v, err := strconv.ParseUint(strings.TrimPrefix(words[i], "0x"), 16, 32)
	return err == nil && v>>(op%32)&1 == 1
}

func queueDirs(device string) []string {
	entries, err := os.ReadDir(device)
	if err != nil {
		return nil // deviceProblem reports it
	}
	var dirs []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "wq") {
			dirs = append(dirs, filepath.Join(device, e.Name()))
		}
	}
	slices.SortFunc(dirs, compareNames)
	return dirs
}

// compareNames orders iax9 before iax10.
func compareNames(a, b string) int {
	if c := cmp.Compare(len(a), len(b)); c != 0 {
		return c
	}
	return cmp.Compare(a, b)
}

func readQueue(opts Options, d *DeviceInfo, dir string) QueueInfo {
	a := &attrs{dir: dir}
	name := filepath.Base(dir)
	q := QueueInfo{
		Name: name, Path: filepath.Join(opts.DevRoot, name), Device: d.Name, Node: d.Node,
		State: a.text("state"), Type: a.text("type"), Mode: a.text("mode"),
		Size: a.small("size"), MaxTransfer: a.number("max_transfer_size"),
	}
	q.Driver, _ = a.optional("driver_name")
	q.Priority = a.optionalSmall("priority")
	q.Threshold = a.optionalSmall("threshold")
	q.BlockOnFault = a.optionalSmall("block_on_fault") == 1
	q.Problem = queueProblem(&q, a)
	return q
}

func (a *attrs) optionalSmall(name string) int {
	s, ok := a.optional(name)
	if !ok {
		return 0
	}
	v, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		return 0
	}
	return int(min(v, maxEntries))
}

func queueProblem(q *QueueInfo, a *attrs) *Problem {
	full := q.Device + "/" + q.Name
	switch {
	case a.err != nil:
		return &Problem{ReasonUnreadable, a.err.Error(), "the kernel may be too old for this driver (5.18 or later is needed)"}
	case q.State != "enabled":
		return &Problem{ReasonDisabled, "the queue is " + q.State, "run accel-config enable-wq " + full}
	case q.Type != "user" || q.Driver != "" && q.Driver != "user":
		return &Problem{ReasonNotUser, fmt.Sprintf("the queue belongs to the kernel (type %s, driver %s)", q.Type, cmp.Or(q.Driver, "-")),
			"disable it and configure it with accel-config config-wq " + full + " --type=user --driver-name=user"}
	case q.Mode != modeShared && q.Mode != modeDedicated || q.Size == 0:
		return &Problem{ReasonUnreadable, fmt.Sprintf("the queue has mode %q and size %d", q.Mode, q.Size),
			"configure it with accel-config config-wq " + full + " --mode=shared --size=16"}
	case q.transfer() < osPage:
		return &Problem{ReasonTransfer, fmt.Sprintf("the queue transfers %d bytes at most (max_transfer_size), less than a page of %d", q.MaxTransfer, osPage),
			"disable it and configure it with accel-config config-wq " + full + " --max-transfer-size=2097152"}
	}
	return accessProblem(q)
}

// accessProblem checks access to the node without opening it.
func accessProblem(q *QueueInfo) *Problem {
	err := access(q.Path)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return &Problem{ReasonNoNode, q.Path + " does not exist", "check that udev runs, and in a container that the device is passed in"}
	case errors.Is(err, fs.ErrPermission):
		return &Problem{ReasonPermission, "no permission to read and write " + q.Path,
			"run as a member of its group, or chgrp and chmod 660 it (better, by a udev rule)"}
	}
	return &Problem{ReasonFailed, fmt.Sprintf("%s: %v", q.Path, err), "check the kernel log"}
}
