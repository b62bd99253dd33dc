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

// state is what a machine needs besides memory.
type state struct {
	Seed    uint64
	Writers []writerState
}

type writerState struct {
	Seq uint64
}

// Save returns the machine's state. It has to be paused.
func (m *Machine) Save() ([]byte, error) {
	s := state{Seed: m.cfg.Seed}
	for _, w := range m.writers {
		s.Writers = append(s.Writers, writerState{Seq: w.seq})
	}
	return json.Marshal(s)
}

// Load takes the state that another machine saved; its memory has come already.
// The ledger is read from the pages themselves.
func (m *Machine) Load(text []byte) error {
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("machine: its state: %w", err)
	}
	if len(s.Writers) != len(m.writers) {
		return fmt.Errorf("machine: the state of %d writers for %d", len(s.Writers), len(m.writers))
	}
	for i, w := range m.writers {
		w.seq = s.Writers[i].Seq
		w.last.Store(w.seq)
		w.rng = rand.New(rand.NewPCG(s.Seed+w.seq, uint64(i)))
		for at := range w.acked {
			page := m.ram[(w.first+uint64(at))*PageSize:]
			if binary.LittleEndian.Uint64(page) == mark|uint64(w.id) {
				w.acked[at] = binary.LittleEndian.Uint64(page[8:])
			}
		}
	}
	return nil
}

// Check compares every page that writers wrote with the ledger. The machine has
// to be paused.
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

// Facts are what has to be equal at both ends of a migration.
type Facts struct {
	// Counters are the writers' last numbers.
	Counters []uint64 `json:"counters"`
	// Ledger is a digest of the number of the last write of every page, and
	// Memory one of all memory.
	Ledger string `json:"ledger"`
	Memory string `json:"memory,omitempty"`
}

// Facts reads them off. The machine has to be paused.
func (m *Machine) Facts() Facts {
	f := Facts{Memory: m.digest()}
	h := sha256.New()
	for _, w := range m.writers {
		f.Counters = append(f.Counters, w.seq)
		binary.Write(h, binary.LittleEndian, w.acked)
	}
	f.Ledger = hex.EncodeToString(h.Sum(nil))
	return f
}

// Began returns the number of each writer's first write since the machine was
// started last.
func (m *Machine) Began() []uint64 {
	var began []uint64
	for _, w := range m.writers {
		began = append(began, w.began)
	}
	return began
}

// Counters returns the writers' last numbers. The machine has to be paused.
func (m *Machine) Counters() []uint64 {
	var n []uint64
	for _, w := range m.writers {
		n = append(n, w.seq)
	}
	return n
}

// digest is the SHA-256 of the SHA-256s of all pieces of memory.
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

// words are what text pages are made of.
var words = []string{"memory ", "page ", "channel ", "round ", "dirty ", "0x00000000 ", "block ", "of ", "the ", "is ", "\n", "packet "}

// fill gives memory a mix like that of a guest that has been up for a while: of
// ten pages four are zero, four hold text or tables, one small numbers, one
// noise. Pages of a kind lie together in stretches.
func fill(ram []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0x6d656d))
	for at := 0; at < len(ram); {
		kind, stretch := r.IntN(10), (1+r.IntN(256))*PageSize
		for end := min(at+stretch, len(ram)); at < end; at += PageSize {
			page := ram[at : at+PageSize]
			switch {
			case kind < 4: // as it is
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
