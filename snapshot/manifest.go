package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"reflect"
	"slices"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/strictjson"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/vmstate"
)

const (
	manifestName  = "manifest.json"
	formatName    = "vmferry-snapshot"
	formatVersion = 1
)

// Manifest is what a snapshot says of itself. Its presence makes the snapshot
// complete.
type Manifest struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Created time.Time `json:"created"`
	// Tool is what wrote it.
	Tool    string       `json:"tool,omitempty"`
	Machine Machine      `json:"machine"`
	Store   Store        `json:"store"`
	Blocks  []BlockInfo  `json:"blocks"`
	Objects []ObjectInfo `json:"objects"`
	Totals  Totals       `json:"totals"`
}

// Machine is what has to be known of the machine to start it again.
type Machine struct {
	// Type is the machine type, such as "pc-q35-7.2"; the same is needed to
	// restore.
	Type     string `json:"type"`
	UUID     string `json:"uuid,omitempty"`
	PageSize int    `json:"page_size"`
	// Sync is where the sync points of its migration are.
	Sync vmstate.SyncMode `json:"sync"`
	// RunState is the state it was in, such as "running".
	RunState string `json:"run_state,omitempty"`
	// QEMU is the version of the QEMU it was saved from, if that is known.
	QEMU string `json:"qemu,omitempty"`
	// Hardware is what the machine was made of, if QEMU was asked.
	Hardware *Hardware `json:"hardware,omitempty"`
}

// BlockInfo is one RAM block.
type BlockInfo struct {
	Name   string `json:"name"`
	Length uint64 `json:"length"`
	// HugePage is the size of the pages that back it, if the stream said so.
	HugePage uint64 `json:"huge_page,omitempty"`
	// Pages are those kept; the others are zero.
	Pages uint64 `json:"pages"`
}

// Role is what an object is for.
type Role string

// The roles of objects.
const (
	RolePages   Role = "pages"
	RoleIndex   Role = "index"
	RoleHead    Role = "head"
	RoleDevices Role = "devices"
	RoleStates  Role = "states"
)

// ObjectInfo is one object.
type ObjectInfo struct {
	Name   string `json:"name"`
	Role   Role   `json:"role"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Totals sum a snapshot up.
type Totals struct {
	// Pages are those kept, Zero the others; PageBytes is what extents of
	// the pages take, IndexBytes what finding them takes.
	Pages      uint64 `json:"pages"`
	Zero       uint64 `json:"zero"`
	Extents    uint64 `json:"extents"`
	PageBytes  int64  `json:"page_bytes"`
	IndexBytes int64  `json:"index_bytes"`
	// Superseded are pages that a later round replaced and that still take
	// up room.
	Superseded uint64 `json:"superseded"`
}

// Bytes returns the bytes of all objects.
func (m *Manifest) Bytes() int64 {
	var n int64
	for _, o := range m.Objects {
		n += o.Size
	}
	return n
}

// Layout returns the RAM blocks.
func (m *Manifest) Layout() (*guest.Layout, error) {
	blocks := make([]guest.Block, len(m.Blocks))
	for i, b := range m.Blocks {
		blocks[i] = guest.Block{Name: b.Name, Length: b.Length, HugePage: b.HugePage}
	}
	return guest.NewLayout(m.Machine.PageSize, blocks)
}

// digestKey begins the last member of a manifest: the digest of all before it.
const digestKey = ",\n  \"sha256\": \""

// encode gives the manifest's text, which ends with its own digest.
func (m *Manifest) encode() ([]byte, error) {
	body, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	body = bytes.TrimSuffix(body, []byte("\n}"))
	sum := sha256.Sum256(body)
	return fmt.Appendf(body, "%s%x\"\n}\n", digestKey, sum), nil
}

// decodeManifest reads and checks a manifest's text.
func decodeManifest(text []byte) (*Manifest, error) {
	if len(text) > maxManifestSize {
		return nil, corrupt(manifestName, "%d bytes (at most %d)", len(text), maxManifestSize)
	}
	tail := len(digestKey) + 2*sha256.Size + len("\"\n}\n")
	if len(text) < tail || !bytes.HasPrefix(text[len(text)-tail:], []byte(digestKey)) {
		return nil, corrupt(manifestName, "it does not end with its digest")
	}
	body := text[:len(text)-tail]
	sum := sha256.Sum256(body)
	if want := fmt.Appendf(nil, "%s%x\"\n}\n", digestKey, sum); !bytes.Equal(text[len(body):], want) {
		return nil, corrupt(manifestName, "its digest is %s, not what it says", hex.EncodeToString(sum[:]))
	}
	if err := strictjson.Check(text, new(Manifest), strictjson.Options{MaxBytes: maxManifestSize, MaxEntries: maxEntries}); err != nil {
		return nil, corrupt(manifestName, "%v", err)
	}
	m := new(Manifest)
	if err := json.Unmarshal(text, m); err != nil {
		return nil, corrupt(manifestName, "%v", err)
	}
	if m.Format != formatName {
		return nil, corrupt(manifestName, "format %q (want %q)", m.Format, formatName)
	}
	if m.Version != formatVersion {
		return nil, fmt.Errorf("snapshot: format version %d is not known here (want %d): use the vmferry that wrote it (%s)", m.Version, formatVersion, m.Tool)
	}
	return m, m.check()
}

// maxEntries bounds the manifest's lists and maps before they are read: an entry
// of no members is 3 bytes of text and a hundred of memory.
var maxEntries = map[reflect.Type]int{
	reflect.TypeFor[[]BlockInfo]():       guest.MaxBlocks,
	reflect.TypeFor[[]ObjectInfo]():      maxPageObjects + 4,
	reflect.TypeFor[[]DeviceInfo]():      maxHardwareEntries,
	reflect.TypeFor[map[string]int]():    maxHardwareEntries,
	reflect.TypeFor[map[string]uint32](): maxHardwareEntries,
}

// readManifest reads the manifest of a bucket.
func readManifest(ctx context.Context, b store.Bucket) (*Manifest, error) {
	text, err := readObject(ctx, b, manifestName, maxManifestSize, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %v: it has no %s (save writes it last: either that save did not complete, or this is not the directory of a snapshot)", ErrIncomplete, b, manifestName)
	}
	if err != nil {
		return nil, err
	}
	return decodeManifest(text)
}

// readStep is how many bytes of an object are read before memory is taken for
// more of them.
const readStep = 1 << 20

// readObject reads a whole object of at most limit bytes. Its memory grows with
// the bytes that come, not with those that the object claims; sure bytes are
// known to be right.
func readObject(ctx context.Context, b store.Bucket, name string, limit, sure int64) ([]byte, error) {
	o, err := openNamed(ctx, b, name)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	if o.Size() > limit {
		return nil, corrupt(name, "%d bytes (at most %d)", o.Size(), limit)
	}
	var data []byte
	for size := int(o.Size()); len(data) < size; {
		n := len(data)
		step := min(size-n, max(n, readStep, int(sure)))
		data = slices.Grow(data, step)[:n+step]
		if _, err := o.ReadAt(ctx, data[n:], int64(n)); err != nil && err != io.EOF {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	return data, nil
}
