package qemu

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
)

// described is the hardware of a machine, as QEMU describes it.
type described struct {
	hardware snapshot.Hardware
	// paths are the paths of the devices in QEMU's object tree, in the order of
	// hardware.Devices.
	paths  []string
	blocks []qmp.RAMBlock
	memdev []qmp.MemoryBackend
}

// describe asks QEMU for the machine's hardware. It changes nothing. A field that
// this QEMU has no answer for stays empty; only a monitor that fails is an error.
func describe(ctx context.Context, vm *qmp.Machine) (*described, error) {
	d := &described{}
	for _, ask := range []func(context.Context, *qmp.Machine) error{
		d.askAccelerator, d.askMemory, d.askBlocks, d.askMemdevs, d.askDevices, d.askOnboard, d.askCPU,
	} {
		if err := ask(ctx, vm); err != nil && !refusedByQEMU(err) {
			return nil, fmt.Errorf("asking QEMU for its hardware: %w", err)
		}
	}
	return d, nil
}

// refusedByQEMU tells whether an error is QEMU's answer, mostly that it does not have
// the command or property, and not a failure of the monitor.
func refusedByQEMU(err error) bool {
	_, ok := errors.AsType[*qmp.Error](err)
	return ok
}

// qomGetOptional reads a property into to, and leaves to as it is if QEMU does not have the
// property.
func qomGetOptional(ctx context.Context, vm *qmp.Machine, path, property string, to any) error {
	err := vm.QomGet(ctx, path, property, to)
	if refusedByQEMU(err) {
		return nil
	}
	return err
}

func (d *described) askAccelerator(ctx context.Context, vm *qmp.Machine) (err error) {
	d.hardware.KVM, err = vm.QueryKVM(ctx)
	return err
}

func (d *described) askMemory(ctx context.Context, vm *qmp.Machine) error {
	size, err := vm.QueryMemorySize(ctx)
	if err != nil {
		return err
	}
	d.hardware.Memory.Size = size.Base
	var more struct {
		Slots   uint64 `json:"slots"`
		MaxSize uint64 `json:"max-size"`
	}
	if err := vm.QomGet(ctx, "/machine", "memory", &more); err != nil {
		return err
	}
	if more.Slots > 0 || more.MaxSize > size.Base {
		d.hardware.Memory.Slots, d.hardware.Memory.MaxSize = more.Slots, more.MaxSize
	}
	return nil
}

func (d *described) askBlocks(ctx context.Context, vm *qmp.Machine) (err error) {
	d.blocks, err = vm.QueryRAMBlocks(ctx)
	return err
}

func (d *described) askMemdevs(ctx context.Context, vm *qmp.Machine) (err error) {
	d.memdev, err = vm.QueryMemdev(ctx)
	return err
}

// askDevices lists the devices of -device and device_add, those with an id
// first.
func (d *described) askDevices(ctx context.Context, vm *qmp.Machine) error {
	for _, parent := range []string{"/machine/peripheral", "/machine/peripheral-anon"} {
		children, err := vm.QomList(ctx, parent)
		if err != nil {
			return err
		}
		for _, child := range children {
			kind, ok := child.Child()
			if !ok {
				continue
			}
			at := parent + "/" + child.Name
			device := snapshot.DeviceInfo{Type: kind}
			if parent == "/machine/peripheral" {
				device.ID = child.Name
			}
			if device.Bus, device.Address, err = busAndAddress(ctx, vm, at); err != nil {
				return err
			}
			d.hardware.Devices, d.paths = append(d.hardware.Devices, device), append(d.paths, at)
		}
	}
	return nil
}

// busAndAddress returns a device's bus, and its address on a PCI bus.
func busAndAddress(ctx context.Context, vm *qmp.Machine, device string) (bus, address string, err error) {
	if err := qomGetOptional(ctx, vm, device, "parent_bus", &bus); err != nil {
		return "", "", err
	}
	if bus != "" {
		bus = path.Base(bus)
	}
	err = qomGetOptional(ctx, vm, device, "legacy-addr", &address)
	return bus, address, err
}

// askOnboard counts the devices, except CPUs, that the machine itself has: those not made by
// -device.
func (d *described) askOnboard(ctx context.Context, vm *qmp.Machine) error {
	children, err := vm.QomList(ctx, "/machine/unattached")
	if err != nil {
		return err
	}
	onboard := map[string]int{}
	for _, child := range children {
		kind, ok := child.Child()
		if ok && strings.HasPrefix(child.Name, "device[") && !strings.HasSuffix(kind, "-cpu") {
			onboard[kind]++
		}
	}
	d.hardware.Onboard = onboard
	return nil
}

func (d *described) askCPU(ctx context.Context, vm *qmp.Machine) error {
	cpus, err := vm.QueryCPUs(ctx)
	if err != nil || len(cpus) == 0 {
		return err
	}
	is := &d.hardware.CPU
	is.Count, is.Target = len(cpus), cpus[0].Target
	var smp map[string]int
	if err := qomGetOptional(ctx, vm, "/machine", "smp", &smp); err != nil {
		return err
	}
	delete(smp, "cpus") // of the command line; Count has the CPUs plugged in later, too
	is.Topology = smp
	if err := vm.QomGet(ctx, cpus[0].Path, "type", &is.Type); err != nil {
		return err
	}
	if is.Target != "x86_64" && is.Target != "i386" {
		return nil
	}
	if is.Signature, err = signature(ctx, vm, cpus[0].Path); err != nil {
		return err
	}
	is.Features, err = features(ctx, vm, cpus[0].Path)
	return err
}

// signature returns the processor that an x86 CPU identifies itself as.
func signature(ctx context.Context, vm *qmp.Machine, cpu string) (string, error) {
	var vendor string
	var family, model, stepping int
	for property, to := range map[string]any{"vendor": &vendor, "family": &family, "model": &model, "stepping": &stepping} {
		if err := vm.QomGet(ctx, cpu, property, to); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%s %d/%d/%d", vendor, family, model, stepping), nil
}

// features reads the feature words of an x86 CPU.
func features(ctx context.Context, vm *qmp.Machine, cpu string) (map[string]uint32, error) {
	var words []struct {
		Leaf     uint32  `json:"cpuid-input-eax"`
		Subleaf  *uint32 `json:"cpuid-input-ecx"`
		Register string  `json:"cpuid-register"`
		Features uint32  `json:"features"`
	}
	if err := vm.QomGet(ctx, cpu, "feature-words", &words); err != nil {
		return nil, err
	}
	found := map[string]uint32{}
	for _, w := range words {
		name := fmt.Sprintf("%X.%s", w.Leaf, w.Register)
		if w.Subleaf != nil {
			name = fmt.Sprintf("%X.%X.%s", w.Leaf, *w.Subleaf, w.Register)
		}
		if bits := w.Features &^ fromTopology[name]; bits != 0 {
			found[name] = bits
		}
	}
	return found, nil
}

// record returns the snapshot's record of the hardware. It is an error if the record
// is larger than a snapshot may hold.
func (d *described) record() (*snapshot.Hardware, error) {
	h := d.hardware
	if err := h.Check(); err != nil {
		return nil, err
	}
	return &h, nil
}

// memoryBlocks returns the RAM blocks of memory backends: the guest's memory.
func (d *described) memoryBlocks() []qmp.RAMBlock {
	var found []qmp.RAMBlock
	for _, b := range d.blocks {
		if slices.ContainsFunc(d.memdev, func(m qmp.MemoryBackend) bool {
			return m.ID != "" && (b.Name == m.ID || b.Name == "/objects/"+m.ID)
		}) {
			found = append(found, b)
		}
	}
	return found
}
