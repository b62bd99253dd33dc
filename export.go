package vmferry

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/store"
)

// ExportFormat is what Export writes.
type ExportFormat string

const (
	// ExportRaw is one RAM block byte by byte, sparse.
	ExportRaw ExportFormat = "raw"
	// ExportMappedRAM is a file for QEMU's own -incoming file: with the capability
	// mapped-ram.
	ExportMappedRAM ExportFormat = "mapped-ram"
)

// ExportOptions say what Export writes.
type ExportOptions struct {
	Format ExportFormat
	// Block is the RAM block that ExportRaw writes; "" is the largest. ExportMappedRAM
	// writes all blocks, and Block has to be "".
	Block string
}

// Export writes a snapshot's memory to a new file, and returns the RAM block that
// ExportRaw writes, with ExportMappedRAM the largest. An export that fails leaves no file.
func Export(ctx context.Context, from Snapshot, file string, opts ExportOptions) (_ *guest.Block, err error) {
	if opts.Block != "" && opts.Format == ExportMappedRAM {
		return nil, fmt.Errorf("exporting: a %s file has all RAM blocks, and not only %q", ExportMappedRAM, opts.Block)
	}
	r, err := from.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	block, err := blockNamed(r.Layout(), opts.Block)
	if err != nil {
		return nil, err
	}
	f, err := store.CreateFile(file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Abort()) }()
	switch opts.Format {
	case ExportRaw:
		err = r.ExportRaw(ctx, block, f)
	case ExportMappedRAM:
		err = r.ExportMappedRAM(ctx, f)
	default:
		err = fmt.Errorf("exporting: unknown format %q (want %s or %s)", opts.Format, ExportRaw, ExportMappedRAM)
	}
	if err != nil {
		return nil, err
	}
	return block, f.Commit()
}

// maxBlocksNamed bounds the names in an error about a block that does not exist.
const maxBlocksNamed = 50

// blockNamed finds a RAM block, the largest if the name is "".
func blockNamed(l *guest.Layout, name string) (*guest.Block, error) {
	if name == "" {
		return l.Largest(), nil
	}
	if b := l.Block(name); b != nil {
		return b, nil
	}
	var names []string
	for _, b := range l.Blocks[:min(len(l.Blocks), maxBlocksNamed)] {
		names = append(names, b.Name)
	}
	if len(l.Blocks) > maxBlocksNamed {
		return nil, fmt.Errorf("no RAM block is called %q; there are %q and %d more (see vmferry inspect)", name, names, len(l.Blocks)-maxBlocksNamed)
	}
	return nil, fmt.Errorf("no RAM block is called %q; there are %q", name, names)
}
