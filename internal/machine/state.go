package machine

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// state is the state of a machine outside of its memory.
type state struct {
	Seed    uint64
	Writers []writerState
}

type writerState struct {
	Seq uint64
}

// Save returns the machine's state. The machine must be paused.
func (m *Machine) Save() ([]byte, error) {
	s := state{Seed: m.cfg.Seed}
	for _, w := range m.writers {
		s.Writers = append(s.Writers, writerState{Seq: w.seq})
	}
	return json.Marshal(s)
}

// Load loads the state that another machine saved. The memory must have arrived before:
// Load reads the ledger from its pages.
func (m *Machine) Load(text []byte) error {
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("machine: loading state: %w", err)
	}
	if len(s.Writers) != len(m.writers) {
		return fmt.Errorf("machine: loading state: %d writers, want %d", len(s.Writers), len(m.writers))
	}
	for i, w := range m.writers {
		w.seq = s.Writers[i].Seq
		w.last.Store(w.seq)
		w.rng = rand.New(rand.NewPCG(s.Seed+w.seq, uint64(i)))
		for at := range w.acked {
			page := m.ram[(w.first+uint64(at))*PageSize:]
			if binary.LittleEndian.Uint64(page) == pageMark|uint64(w.id) {
				w.acked[at] = binary.LittleEndian.Uint64(page[8:])
			}
		}
	}
	return nil
}

// Check compares every written page with the ledger. The machine must be paused.
func (m *Machine) Check() error {
	var errs []error
	for _, w := range m.writers {
		for at := range w.acked {
			if err := w.check(uint64(at)); err != nil {
				errs = append(errs, err)
			}
			if len(errs) == 10 {
				return errors.Join(errs...)
			}
		}
	}
	return errors.Join(errs...)
}

// Facts must be equal on both sides of a migration.
type Facts struct {
	// Counters are the numbers of the last write of each writer.
	Counters []uint64 `json:"counters"`
	// Ledger is a digest of the numbers of the last write to each page. Memory is a
	// digest of all memory.
	Ledger string `json:"ledger"`
	Memory string `json:"memory,omitempty"`
}

// Facts computes the facts. The machine must be paused.
func (m *Machine) Facts() Facts {
	f := Facts{Memory: m.digest(), Counters: m.Counters()}
	h := sha256.New()
	for _, w := range m.writers {
		binary.Write(h, binary.LittleEndian, w.acked)
	}
	f.Ledger = hex.EncodeToString(h.Sum(nil))
	return f
}

// Began returns the number of the first write of each writer since the last start of the
// machine.
func (m *Machine) Began() []uint64 {
	return m.ofEachWriter(func(w *writer) uint64 { return w.began })
}

// Counters returns the number of the last write of each writer. The machine must be
// paused.
func (m *Machine) Counters() []uint64 {
	return m.ofEachWriter(func(w *writer) uint64 { return w.seq })
}

// digest returns the SHA-256 of the SHA-256 sums of all pieces of memory.
func (m *Machine) digest() string {
	const piece = 4 << 20
	sums := make([][sha256.Size]byte, (len(m.ram)+piece-1)/piece)
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range sums {
		group.Go(func() error {
			sums[i] = sha256.Sum256(m.ram[i*piece : min((i+1)*piece, len(m.ram))])
			return nil
		})
	}
	group.Wait()
	h := sha256.New()
	for _, s := range sums {
		h.Write(s[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// words are the words of text pages.
var words = []string{"memory ", "page ", "channel ", "round ", "dirty ", "0x00000000 ", "block ", "of ", "the ", "is ", "\n", "packet "}

// fill fills memory with a mix of pages like that of a guest that has run for a while. Of
// ten pages, four are zero, four hold text, one holds small numbers, and one holds noise.
// Pages of a kind are contiguous in stretches.
func fill(ram []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0x6d656d))
	for at := 0; at < len(ram); {
		kind, stretch := r.IntN(10), (1+r.IntN(256))*PageSize
		for end := min(at+stretch, len(ram)); at < end; at += PageSize {
			page := ram[at : at+PageSize]
			switch {
			case kind < 4: // zero
			case kind < 8:
				for n := 0; n < len(page); {
					n += copy(page[n:], words[r.IntN(len(words))])
				}
			case kind < 9:
				for n := 0; n < len(page); n += 8 {
					binary.LittleEndian.PutUint64(page[n:], uint64(r.IntN(1<<16)))
				}
			default:
				for n := 0; n < len(page); n += 8 {
					binary.LittleEndian.PutUint64(page[n:], r.Uint64())
				}
			}
		}
	}
}
