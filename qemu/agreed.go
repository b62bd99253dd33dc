package qemu

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vmferry/vmferry/qemu/agreement"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
)

// side is a QEMU of a migration and its machine, as the two sides compare them.
type side struct {
	described   *described
	description *agreement.Description
	// machines are the names of the machine types that this QEMU has; nil if it does
	// not report them.
	machines []string
}

// describeSide asks QEMU for what the other side needs to know. It changes nothing.
func describeSide(ctx context.Context, vm *qmp.Machine, tool string) (*side, error) {
	d, err := describe(ctx, vm)
	if err != nil {
		return nil, err
	}
	status, err := vm.QueryStatus(ctx)
	if err != nil {
		return nil, err
	}
	uuid, err := vm.QueryUUID(ctx)
	if err != nil {
		return nil, err
	}
	caps, err := vm.QueryMigrateCapabilities(ctx)
	if err != nil {
		return nil, err
	}
	is := &side{described: d, description: &agreement.Description{
		Vmferry: tool, QEMU: fmt.Sprint(vm.Version()), UUID: uuid, RunState: status.Status,
		Hardware: d.hardware, Capabilities: slices.Sorted(maps.Keys(caps)),
	}}
	for _, b := range d.blocks {
		is.description.Blocks = append(is.description.Blocks, agreement.Block{Name: b.Name, Bytes: b.Used})
	}
	if err := qomGetOptional(ctx, vm, "/machine", "type", &is.description.Machine); err != nil {
		return nil, err
	}
	is.description.Machine = strings.TrimSuffix(is.description.Machine, "-machine")
	types, err := vm.QueryMachines(ctx)
	if err != nil && !refusedByQEMU(err) {
		return nil, err
	}
	for _, t := range types {
		is.machines = append(is.machines, t.Name)
		if t.Name == is.description.Machine {
			is.description.Alias = t.Alias
		}
	}
	return is, nil
}

// compareSource finds how this QEMU, a destination, differs from the source, which the
// other side describes. The source is not trusted.
func (d *side) compareSource(source *agreement.Description, version qmp.Version) *comparison {
	c := &comparison{sides: sourceAndDestination}
	if d.compareMachineType(c, source); len(c.differences) == 0 {
		// Another machine type has other devices, so their differences add nothing.
		from := original{qemu: source.QEMU, hardware: &source.Hardware}
		for _, b := range source.Blocks {
			from.blocks = append(from.blocks, snapshot.BlockInfo{Name: b.Name, Length: b.Bytes})
		}
		c = compare(sourceAndDestination, from, d.described, version)
		if had, is := source.Hardware.KVM, d.described.hardware.KVM; had != is {
			c.differ("accelerator: the source runs %s, the destination %s (start it with \"-accel %s\")", withKVM(had), withKVM(is), accelerator(had))
		}
	}
	if is := d.description.UUID; source.UUID != "" && source.UUID != is {
		c.differ("UUID: the source has %s, the destination has %s (start it with \"-uuid %s\")", source.UUID, is, source.UUID)
	}
	makeDisplayable(c.differences, c.remarks)
	return c
}

func (d *side) compareMachineType(c *comparison, source *agreement.Description) {
	had, is := source.Machine, d.description.Machine
	switch {
	case had == "" || is == "" || had == is:
	case d.machines != nil && !slices.Contains(d.machines, had):
		c.differ("machine type: the source has %q, which QEMU %s of the destination does not have (use a QEMU there that has it, or start the source's machine with a type that both have)", had, d.description.QEMU)
	default:
		c.differ("machine type: the source has %q, the destination has %q (start it with \"-M %s\" and the same devices)", had, is, had)
	}
}

func accelerator(kvm bool) string {
	if kvm {
		return "kvm"
	}
	return "tcg"
}

// errOrder is wrapped for a message that has to come at another time.
var errOrder = errors.New("the other vmferry sends messages in another order (use the same version on both sides)")

func orderError(got, want agreement.Type) error {
	return fmt.Errorf("%w: %q instead of %q", errOrder, got, want)
}
