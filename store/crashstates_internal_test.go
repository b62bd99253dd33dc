package store

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// disk is the durable state of the disk and the changes that a crash can lose.
type disk struct {
	entries map[uint64]map[string]*crashNode // by directory
	pending []crashOp                        // changes of names
	data    map[uint64][]byte                // by file, as it was synced
	dirty   map[uint64][]byte                // by file, written since
}

func (d *disk) names(dir uint64) map[string]*crashNode {
	if d.entries[dir] == nil {
		d.entries[dir] = map[string]*crashNode{}
	}
	return d.entries[dir]
}

func (d *disk) do(op crashOp) {
	switch {
	case op.sets != nil:
		d.pending = append(d.pending, op)
	case op.file != nil:
		d.dirty[op.file.ino] = op.data
	case op.sync != 0:
		if data, written := d.dirty[op.sync]; written {
			d.data[op.sync] = data
			delete(d.dirty, op.sync)
		}
		d.pending = slices.DeleteFunc(d.pending, func(p crashOp) bool {
			if p.dir == op.sync {
				apply(d.names(p.dir), p.sets)
			}
			return p.dir == op.sync
		})
	}
}

// maxSubsets is the largest number of states that are checked for one moment.
const maxSubsets = 1 << 10

// crashStates calls check with every state in which a crash can leave the disk,
// and the mark before it. What can be found between two syncs can be found just
// before the second too, so that only moments before syncs and marks count.
func (f *crashFS) crashStates(check func(mark string, after *crashFS) error) (states int, err error) {
	d := &disk{entries: map[uint64]map[string]*crashNode{}, data: map[uint64][]byte{}, dirty: map[uint64][]byte{}}
	mark := ""
	random := rand.New(rand.NewPCG(9, 9))
	for i, op := range append(f.log, crashOp{mark: "end"}) {
		if op.sync != 0 || op.mark != "" {
			n := 1 << min(len(d.pending), 30)
			for k := range min(n, maxSubsets) {
				kept := k
				if n > maxSubsets {
					kept = random.IntN(n)
				}
				for _, lost := range []lostBytes{losesNone, losesAll, losesToZeros} {
					states++
					if err := check(mark, d.crash(f.root.ino, kept, lost)); err != nil {
						return states, fmt.Errorf("a crash before step %d, with %d of the last %d changes of names (%b), %s: %w",
							i, onesIn(kept), len(d.pending), kept, lost, err)
					}
				}
			}
		}
		d.do(op)
		if op.mark != "" {
			mark = op.mark
		}
	}
	return states, nil
}

func onesIn(n int) int { return strings.Count(fmt.Sprintf("%b", n), "1") }

// lostBytes is the effect of a crash on bytes that were not synced.
type lostBytes string

const (
	losesNone    lostBytes = "all bytes written"
	losesAll     lostBytes = "unsynced bytes gone"
	losesToZeros lostBytes = "unsynced bytes zero"
)

// crash makes the file system that is found after a crash: the changes of names
// that kept has a bit for were written, and unsynced bytes as lost says.
func (d *disk) crash(root uint64, kept int, lost lostBytes) *crashFS {
	entries := map[uint64]map[string]*crashNode{}
	for dir, names := range d.entries {
		entries[dir] = maps.Clone(names)
	}
	for i, op := range d.pending {
		if kept>>i&1 == 0 {
			continue
		}
		if entries[op.dir] == nil {
			entries[op.dir] = map[string]*crashNode{}
		}
		apply(entries[op.dir], op.sets)
	}
	after := newCrashFS()
	var build func(into *crashNode, ino uint64)
	build = func(into *crashNode, ino uint64) {
		for name, old := range entries[ino] {
			n := after.node(into, old.entries != nil)
			into.entries[name] = n
			if n.entries != nil {
				build(n, old.ino)
				continue
			}
			n.data = d.data[old.ino]
			if dirty, written := d.dirty[old.ino]; written && lost == losesNone {
				n.data = dirty
			} else if written && lost == losesToZeros {
				n.data = make([]byte, len(dirty))
			}
		}
	}
	build(after.root, root)
	return after
}
