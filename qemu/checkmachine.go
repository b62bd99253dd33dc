package qemu

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qmp"
)

// checkMachine asks for the machine's type, and returns the destination's uuid, which
// the multifd channels begin with.
func (s *restore) checkMachine(ctx context.Context) (uuid [16]byte, err error) {
	if err := s.vm.QomGet(ctx, "/machine", "type", &s.kind); err == nil {
		s.kind = strings.TrimSuffix(s.kind, "-machine")
	}
	text, err := s.vm.QueryUUID(ctx)
	if err != nil {
		return uuid, err
	}
	if n, err := hex.Decode(uuid[:], []byte(strings.ReplaceAll(text, "-", ""))); err != nil || n != 16 {
		return uuid, fmt.Errorf("query-uuid: %q is not a UUID", text)
	}
	want := s.r.Manifest().Machine.UUID
	if is := hex.EncodeToString(uuid[:]); want != "" && want != is {
		s.opts.Logger.Warn("the destination has another uuid than the machine that was saved", "saved", want, "destination", is)
	}
	return uuid, nil
}

// checkHardware compares the hardware before the first page is sent. QEMU reports a
// difference only in the middle of the migration, with fewer details, or not at all.
func (s *restore) checkHardware(here *described) error {
	saved := s.r.Manifest()
	var differences []string
	if want := saved.Machine.Type; s.kind != "" && s.kind != want {
		differences = append(differences, fmt.Sprintf("the snapshot is of a machine %q, this QEMU has %q: start it with \"-M %s\" and the same devices", want, s.kind, want))
	}
	// Another machine type has other devices, so their differences add nothing.
	if len(differences) == 0 {
		found := compareSaved(saved, here, s.vm.Version())
		differences = found.differences
		for _, remark := range found.remarks {
			s.opts.Logger.Warn("the destination differs from the machine that was saved", "difference", remark)
		}
	}
	if len(differences) == 0 {
		return nil
	}
	if !s.opts.Force {
		return &MismatchError{Differences: differences}
	}
	for _, difference := range differences {
		s.opts.Logger.Warn("restoring all the same, as --force says", "difference", difference)
	}
	return nil
}

// checkMemory checks the memory backends of the destination.
func (s *restore) checkMemory(ctx context.Context, devs []qmp.MemoryBackend) error {
	var untouched []string
	for _, d := range devs {
		if d.ID == "" {
			continue
		}
		if !d.Prealloc {
			untouched = append(untouched, d.ID)
		}
		var path string
		if err := qomGetOptional(ctx, s.vm, "/objects/"+d.ID, "mem-path", &path); err != nil {
			return err
		}
		if path != "" {
			// The file may hold data where the snapshot has zero pages.
			s.allZero = true
		}
	}
	if len(untouched) == 0 {
		return nil
	}
	// With an accelerator QEMU inflates a page that faults in software; without one
	// the faults cost little.
	say := s.opts.Logger.Debug
	if s.opts.Method == multifd.QPL {
		say = s.opts.Logger.Warn
	}
	say("the destination's memory is not preallocated: page faults will slow the restore down, with an accelerator several times (-object ...,prealloc=on)", "memdev", strings.Join(untouched, ","))
	return nil
}
