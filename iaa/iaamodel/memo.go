package iaamodel

import (
	"bytes"
	"hash/maphash"

	"github.com/vmferry/vmferry/iaa"
)

// memo caches the engines' results by source, so that a simulation that sends the same
// pages many times does the work once. Machine.mu does not guard it: with a Clock there
// is one thread.
type memo struct {
	seed    maphash.Seed
	entries map[memoKey]memoEntry
}

type memoKey struct {
	hash  uint64
	op    iaa.Opcode
	flags iaa.CodecFlags
	room  uint32
}

type memoEntry struct {
	src, out []byte
	outcome  outcome
}

// maxMemo bounds the cache; beyond it, nothing is added.
const maxMemo = 1 << 14

func newMemo() *memo { return &memo{maphash.MakeSeed(), make(map[memoKey]memoEntry)} }

// do returns the result of work on src. The result must not depend on the tables of an
// AECS, except the fixed ones.
func (m *memo) do(j *job, o *outcome, src []byte, work func()) {
	key := memoKey{maphash.Bytes(m.seed, src), j.desc.Op(), j.desc.CodecFlags, j.desc.MaxDst}
	if e, ok := m.entries[key]; ok && bytes.Equal(e.src, src) {
		result := e.outcome
		result.stall, result.translations, result.requests, result.remapped = o.stall, o.translations, o.requests, o.remapped
		result.output = e.out
		*o = result
		return
	}
	work()
	if len(m.entries) < maxMemo {
		m.entries[key] = memoEntry{bytes.Clone(src), bytes.Clone(o.output), *o}
	}
}

// memoizes reports whether a job's result depends on its source alone: not if the job
// brings tables made for it.
func (m *memo) memoizes(j *job, tab *aecs) bool {
	return m != nil && (j.desc.Flags()&iaa.FlagReadAECS == 0 || tab.headBits == 3)
}
