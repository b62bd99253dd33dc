package snapshot_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/seed"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store/storetest"
)

// mutated is a snapshot that a fuzzer changes: its objects, the segments and
// lines of its index, and the numbers of its manifest.
type mutated struct {
	f      *forger
	x      *forgedIndex
	pages  []byte
	states []byte
}

// apply takes changes of 6 bytes: what is changed, how, where, and a value.
func (m *mutated) apply(ops []byte) {
	for len(ops) >= 6 {
		target, how := ops[0], ops[1]
		at, value := int(binary.BigEndian.Uint16(ops[2:])), binary.BigEndian.Uint16(ops[4:])
		ops = ops[6:]
		switch target % 8 {
		case 0:
			m.pages = change(m.pages, how, at, value)
		case 1:
			i := int(how>>4) % max(1, len(m.x.segments))
			if i < len(m.x.segments) {
				m.x.segments[i] = change(m.x.segments[i], how&0xf, at, value)
			}
		case 2:
			if i := int(how>>4) % max(1, len(m.x.dir)); i < len(m.x.dir) {
				line := change(m.x.dir[i], how&3, at, value)
				m.x.dir[i] = line
			}
		case 3:
			m.x.footer = change(m.x.footer, how&3, at, value)
		case 4: // a segment once more, or away
			m.repeat(int(how>>4), how&1 == 0)
		case 5:
			m.states = change(m.states, how, at, value)
		default:
			m.number(int(how), uint64(value)<<(at%48))
		}
	}
}

// change sets, adds to, removes or inserts a byte or two. Kinds 0 to 3 keep the
// length.
func change(b []byte, how byte, at int, value uint16) []byte {
	if len(b) < 2 {
		return b
	}
	at %= len(b) - 1
	switch how % 8 {
	case 0, 1:
		binary.BigEndian.PutUint16(b[at:], value)
	case 2:
		b[at] += byte(value)
	case 3:
		b[at] ^= 1 << (value % 8)
	case 4:
		return b[:at]
	case 5:
		return append(b, make([]byte, value%600)...)
	case 6:
		return append(b[:at:at], b[at+1:]...)
	default:
		return append(b, b[:at]...)
	}
	return b
}

func (m *mutated) repeat(i int, more bool) {
	if i >= len(m.x.dir) {
		return
	}
	if more {
		m.x.dir, m.x.segments = append(m.x.dir, bytes.Clone(m.x.dir[i])), append(m.x.segments, bytes.Clone(m.x.segments[i]))
		return
	}
	m.x.dir, m.x.segments = append(m.x.dir[:i:i], m.x.dir[i+1:]...), append(m.x.segments[:i:i], m.x.segments[i+1:]...)
}

// number sets a number of the manifest.
func (m *mutated) number(which int, value uint64) {
	block := m.f.manifest["blocks"].([]any)[which/16%2].(map[string]any)
	totals := m.f.manifest["totals"].(map[string]any)
	switch which % 16 {
	case 0:
		block["length"] = value
	case 1:
		block["pages"] = value
	case 2:
		m.f.manifest["machine"].(map[string]any)["page_size"] = value % (1 << 20)
	default:
		keys := []string{"pages", "zero", "extents", "page_bytes", "superseded"}
		totals[keys[which%len(keys)]] = value % (1 << 62)
	}
}

// repair makes all checksums and digests right, and with sums also the counts.
func (m *mutated) repair(t *testing.T, sums bool) {
	be := binary.BigEndian
	for i, line := range m.x.dir {
		for s := m.x.segments[i]; line[0] == 1 && len(s) >= m.x.lineLen(); s = s[m.x.lineLen():] {
			at, n := be.Uint64(s[8:]), uint64(be.Uint32(s[16:]))
			if size := uint64(len(m.pages)); at <= size && n <= size-at {
				m.x.setSum(s, m.pages[at:at+n])
			}
		}
	}
	if sums {
		m.sums()
	}
	m.f.set("pages-000000", m.pages)
	m.f.set("device-states", m.states)
	m.f.set("index", m.x.bytes(false))
	m.f.sign(t)
}

// sums makes footer and totals say what the directory does.
func (m *mutated) sums() {
	be := binary.BigEndian
	var extents, all, length uint64
	pages := map[uint16]uint64{}
	for i, line := range m.x.dir {
		n := uint64(be.Uint32(line[20:]))
		if line[0] != 1 {
			pages[be.Uint16(line[2:])] += n
			all += n
			continue
		}
		extents += n
		for s := m.x.segments[i]; len(s) >= m.x.lineLen(); s = s[m.x.lineLen():] {
			length += uint64(be.Uint32(s[16:]))
		}
	}
	be.PutUint64(m.x.footer[16:], extents)
	be.PutUint64(m.x.footer[24:], all)
	totals := m.f.manifest["totals"].(map[string]any)
	total := uint64(0)
	for i, b := range m.f.manifest["blocks"].([]any) {
		b.(map[string]any)["pages"] = pages[uint16(i)]
		text, _ := json.Marshal(b.(map[string]any)["length"])
		var n uint64
		if json.Unmarshal(text, &n) == nil {
			total += n / 1024
		}
	}
	totals["pages"], totals["zero"], totals["extents"], totals["page_bytes"] = all, total-all, extents, length
	totals["superseded"] = 1 << 20
}

// FuzzSnapshotRepaired changes a snapshot, repairs every checksum and digest,
// and does with it what the commands do.
func FuzzSnapshotRepaired(f *testing.F) {
	add := func(name string, store, sums byte, ops ...byte) {
		seed.Add(f, *update, name, store, sums, ops)
	}
	add("unchanged", 0, 1)
	add("zstd", 2, 1)
	add("format1", 4, 1)
	add("format1-payload", 4, 1, 0, 2, 0, 20, 0, 7)
	add("payload", 0, 1, 0, 2, 0, 20, 0, 7)
	add("raw-payload", 3, 1, 0, 2, 4, 20, 0, 7)
	add("slot", 3, 1, 1, 0x12, 0, 13, 0, 1)
	add("extent-offset", 3, 1, 1, 2, 0, 15, 0, 1)
	add("segment-twice", 0, 1, 4, 0x10, 0, 0, 0, 0)
	add("chunk-away", 0, 1, 4, 0x21, 0, 0, 0, 0)
	add("large-block", 0, 1, 6, 0, 0, 30, 0x10, 0)
	add("counts", 0, 0, 3, 0, 0, 16, 0xff, 0xff)
	add("states", 0, 1, 5, 2, 0, 30, 0, 1)
	var good []*storetest.Bucket
	for _, version := range []int{2, 1} {
		for _, store := range stores {
			b, _ := smallOf(f, version, store, 1024)
			good = append(good, b)
		}
	}
	f.Fuzz(func(t *testing.T, store, sums byte, ops []byte) {
		if len(ops) > 6*32 {
			return
		}
		b := good[int(store)%len(good)].Clone()
		forger := newForger(t, b)
		m := &mutated{forger, takeApart(b.Bytes("index")), forger.extents("pages-000000"), b.Bytes("device-states")}
		m.apply(ops)
		if len(m.x.footer) != 64 {
			return
		}
		m.repair(t, sums%2 == 1)
		if n := allocated(func() { useRepaired(t, b, len(ops) == 0) }); n > 128<<20 {
			t.Errorf("%d MiB were allocated for a snapshot of %d bytes", n>>20, len(m.pages))
		}
	})
}

// useRepaired opens, inspects, verifies and reads. What is sound can be read.
func useRepaired(t *testing.T, b *storetest.Bucket, unchanged bool) {
	known := func(what string, err error) {
		if err != nil && !errors.Is(err, snapshot.ErrCorrupt) && !strings.Contains(err.Error(), "format version") {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && unchanged {
			t.Errorf("%s of an unchanged snapshot: %v", what, err)
		}
	}
	r, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{})
	known("Open", err)
	if err != nil {
		return
	}
	defer r.Close()
	_, headErr := r.Head(t.Context())
	_, devicesErr := r.Devices(t.Context())
	_, statesErr := r.States(t.Context())
	known("objects", errors.Join(headErr, devicesErr, statesErr))
	verified, verifyErr := r.Verify(context.Background(), nil)
	known("Verify", verifyErr)
	pages, err := pagesOfSource(t, r)
	known("Source", err)
	if verifyErr == nil && (err != nil || pages != verified.Pages || !r.DigestsVerified()) {
		t.Errorf("a snapshot of %d pages is sound, but %d can be read: %v", verified.Pages, pages, err)
	}
	if n := b.OpenObjects(); n > mostOpen {
		t.Errorf("%d objects are open", n)
	}
}

// pagesOfSource reads a source to its end, and each page through Page too.
func pagesOfSource(t *testing.T, r *snapshot.Reader) (n uint64, _ error) {
	src, page := r.Source(snapshot.SourceOptions{}), make([]byte, r.Layout().PageSize)
	var batch guest.Batch
	for {
		if err := src.Next(context.Background(), &batch); err == io.EOF {
			return n, nil
		} else if err != nil {
			return n, err
		}
		for i, off := range batch.Normal {
			if err := r.Page(t.Context(), batch.Block, off, page); err != nil || !bytes.Equal(page, batch.Data[i]) {
				t.Errorf("page %#x of %s: %v, or another than the source's", off, batch.Block.Name, err)
			}
		}
		n += uint64(len(batch.Normal))
	}
}
