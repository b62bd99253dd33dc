package iaamodel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// The op_cap bitmap, 256 bits with the highest group of 32 first. Word 2 (opcodes
// 0x40 to 0x5f) is the third from the end: DECOMPRESS 0x42 and COMPRESS 0x43;
// word 0 has NOOP and DRAIN.
const (
	opCap   = "00000000,00000000,00000000,00000000,00000000,0000000c,00000000,00000005"
	opNoCap = "00000000,00000000,00000000,00000000,00000000,00000000,00000000,00000005"
)

// writeTree writes the sysfs attributes and the device nodes of cfg.
func writeTree(sysfs, dev string, cfg Config) error {
	var errs []error
	write := func(path, format string, args ...any) {
		errs = append(errs, os.WriteFile(path, fmt.Appendf(nil, format+"\n", args...), 0o644))
	}
	errs = append(errs, os.MkdirAll(sysfs, 0o755), os.MkdirAll(dev, 0o755))
	for i, d := range cfg.Devices {
		dir := filepath.Join(sysfs, deviceName(i))
		errs = append(errs, os.MkdirAll(dir, 0o755))
		at := func(name string) string { return filepath.Join(dir, name) }
		write(at("state"), "%s", d.State)
		write(at("pasid_enabled"), "%d", b2i(!d.NoPASID))
		write(at("version"), "%#x", d.Version)
		write(at("gen_cap"), "%#x", uint64(genCap))
		write(at("numa_node"), "%d", d.Node)
		write(at("max_engines"), "%d", d.Engines)
		write(at("max_work_queues"), "%d", 8)
		write(at("max_work_queues_size"), "%d", 128)
		write(at("max_transfer_size"), "%d", 1<<31)
		caps := opCap
		if d.NoOpcodes {
			caps = opNoCap
		}
		write(at("op_cap"), "%s", caps)
		if d.Version >= 0x200 {
			write(at("iaa_cap"), "%#x", iaa2Cap)
		}
		for j, q := range d.Queues {
			errs = append(errs, writeQueue(filepath.Join(dir, queueName(i, j)), dev, queueName(i, j), q))
		}
	}
	return errors.Join(errs...)
}

// iaa2Cap has early abort and header generation.
const iaa2Cap = 1<<5 | 1<<8

func writeQueue(dir, dev, name string, q Queue) error {
	errs := []error{os.MkdirAll(dir, 0o755)}
	for attr, value := range map[string]any{
		"state": q.State, "type": q.Type, "mode": q.Mode, "size": q.Size, "threshold": q.Threshold,
		"priority": 10, "block_on_fault": b2i(q.BlockOnFault), "max_transfer_size": q.MaxTransfer,
		"driver_name": q.Driver, "cdev_minor": 0, "group_id": 0,
	} {
		errs = append(errs, os.WriteFile(filepath.Join(dir, attr), fmt.Appendf(nil, "%v\n", value), 0o644))
	}
	if !q.NoNode {
		node := filepath.Join(dev, name)
		errs = append(errs, os.WriteFile(node, nil, q.Perm), chmod(node, q.Perm))
	}
	return errors.Join(errs...)
}

func chmod(path string, perm fs.FileMode) error { return os.Chmod(path, perm) }

func deviceName(i int) string { return fmt.Sprintf("iax%d", i) }

func queueName(i, j int) string { return fmt.Sprintf("wq%d.%d", i, j) }

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
