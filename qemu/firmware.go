package qemu

import (
	"context"
	"path"
	"slices"
	"strings"

	"github.com/vmferry/vmferry/snapshot"
)

// warnOfFirmwareVariables logs which files a restore overwrites. Flash memory, where
// UEFI keeps its variables, is a RAM block. A QEMU that loads the block writes it to
// the file of its own flash.
func (s *restore) warnOfFirmwareVariables(ctx context.Context) error {
	drives, err := s.vm.QueryBlock(ctx)
	if err != nil {
		if refusedByQEMU(err) {
			return nil
		}
		return err
	}
	for _, d := range drives {
		if d.Inserted == nil || d.Inserted.ReadOnly || !strings.HasPrefix(d.Qdev, "/machine/") {
			continue
		}
		var kind string
		if err := s.vm.QomGet(ctx, d.Qdev, "type", &kind); err != nil {
			if refusedByQEMU(err) {
				continue
			}
			return err
		}
		block := path.Base(d.Qdev)
		if !strings.HasPrefix(kind, "cfi.pflash") || !slices.ContainsFunc(s.r.Manifest().Blocks, func(b snapshot.BlockInfo) bool { return b.Name == block }) {
			continue
		}
		s.opts.Logger.Warn("the restore overwrites this QEMU's UEFI variables with those of the snapshot: flash memory travels with the machine's memory", "file", d.Inserted.File, "block", block)
	}
	return nil
}
