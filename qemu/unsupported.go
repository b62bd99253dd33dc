package qemu

import (
	"context"
	"fmt"
	"strings"

	"github.com/vmferry/vmferry/qmp"
)

// inspect asks for the machine's hardware, and refuses a machine that cannot be saved,
// before any change.
func (s *save) inspect(ctx context.Context) (err error) {
	if s.described, err = describe(ctx, s.vm); err != nil {
		return err
	}
	for i, d := range s.described.hardware.Devices {
		why, err := s.unsupported(ctx, d.Type, s.described.paths[i])
		if err != nil {
			return err
		}
		if why != "" {
			return fmt.Errorf("%w: %s cannot be saved: %s", ErrUnable, deviceName(d), why)
		}
	}
	return nil
}

// unsupported returns why a machine with a device of that type cannot be saved, and
// what the user can do; "" if it can be saved.
func (s *save) unsupported(ctx context.Context, kind, at string) (why string, err error) {
	switch {
	case kind == "nvme" || strings.HasPrefix(kind, "nvme-"):
		return "QEMU cannot migrate its state (use virtio-blk or virtio-scsi, or unplug it)", nil
	case strings.HasPrefix(kind, "vfio-"):
		return "its state comes before memory is complete and carries no length (unplug it for the save)", nil
	case strings.HasPrefix(kind, "virtio-mem-"):
		return s.unsupportedVirtioMem(ctx, at)
	case strings.HasPrefix(kind, "ivshmem-"):
		return s.unsupportedIvshmem(ctx, at)
	case kind == "nvdimm":
		return s.unsupportedUnderTCG(), nil
	case strings.HasPrefix(kind, "virtio-pmem-"):
		if why := s.unsupportedUnderTCG(); why != "" {
			return why, nil
		}
		s.opts.Logger.Warn("the memory of a virtio-pmem device stays in its file, as a disk does, and is not in the snapshot: copy the file while the machine is paused (--at-pause)", "device", at)
	}
	return "", nil
}

// unsupportedVirtioMem refuses virtio-mem that sends its state early. QEMU before 8.0
// and its machine types send it late, and do not have the property.
func (s *save) unsupportedVirtioMem(ctx context.Context, at string) (string, error) {
	var early bool
	if err := qomGetOptional(ctx, s.vm, at, "x-early-migration", &early); err != nil {
		return "", err
	}
	if early {
		return "its state comes before memory is complete and carries no length (start QEMU with -device virtio-mem-...,x-early-migration=off, which a restore needs, too)", nil
	}
	return "", nil
}

// unsupportedIvshmem refuses shared memory that its peers own; QEMU refuses it too.
func (s *save) unsupportedIvshmem(ctx context.Context, at string) (string, error) {
	var master string
	if err := qomGetOptional(ctx, s.vm, at, "master", &master); err != nil {
		return "", err
	}
	if master != "on" {
		return "its memory belongs to its peers, too, and QEMU does not migrate it (start QEMU with master=on for this device, or unplug it)", nil
	}
	return s.unsupportedUnderTCG(), nil
}

// unsupportedUnderTCG refuses a device whose memory makes QEMU abort without KVM: see
// [described.forgetsWrites].
func (o *outgoing) unsupportedUnderTCG() string {
	if o.described.hardware.KVM || o.vm.Version().Major < 9 {
		return ""
	}
	return "without KVM, QEMU from 9.0 on may abort when it looks for dirty pages of such a device, and the machine with it (use KVM, or unplug the device for the save)"
}

// abortsUnderTCG returns why a machine with a device of that type cannot be sent without
// KVM; "" if it can.
func (o *outgoing) abortsUnderTCG(kind string) string {
	if kind == "nvdimm" || strings.HasPrefix(kind, "virtio-pmem-") || strings.HasPrefix(kind, "ivshmem-") {
		return o.unsupportedUnderTCG()
	}
	return ""
}

// forgetsWrites tells whether QEMU 9.0 or later, without KVM, does not track the new
// writes to a block of the guest's memory. After QEMU has read the dirty pages of a
// block, it makes the CPUs report the next write to them. If the block is a multiple of
// 64 pages, as most are, QEMU uses the addresses of the first block in its space of RAM
// addresses instead. So it misses writes to a later block, and aborts if the range
// exceeds the first block. A paused machine makes no writes. ROMs and video memory,
// which hardly change, count only if QEMU would abort.
func (d *described) forgetsWrites() bool {
	const pages64 = 64 * 4096
	var first uint64
	for _, b := range d.blocks {
		if b.Offset == 0 {
			first = b.Max
		}
	}
	misplaced := func(b qmp.RAMBlock) bool { return b.Offset != 0 && b.Offset%pages64 == 0 && b.Used%pages64 == 0 }
	for _, b := range d.blocks {
		if misplaced(b) && b.Used > first {
			return true
		}
	}
	for _, b := range d.memoryBlocks() {
		if misplaced(b) {
			return true
		}
	}
	return false
}
