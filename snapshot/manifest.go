package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
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
	manifestName = "manifest.json"
	formatName   = "vmferry-snapshot"
)

// Manifest describes a snapshot. A snapshot with a manifest is complete. The JSON keys
// are those of section 3 of docs/snapshot-format.md.
type Manifest struct {
	Format string `json:"format"`
	// Version is that of the format: 1 or 2. A Writer writes 2.
	Version int `json:"version"`
	// Requires names what a reader must know besides the version. A Reader refuses a
	// snapshot that requires anything, because it knows nothing of that kind.
	Requires []string  `json:"requires,omitempty"`
	Created  time.Time `json:"created"`
	// Tool names the program that wrote the snapshot.
	Tool    string       `json:"tool,omitempty"`
	Machine Machine      `json:"machine"`
	Store   Store        `json:"store"`
	Blocks  []BlockInfo  `json:"blocks"`
	Objects []ObjectInfo `json:"objects"`
	Totals  Totals       `json:"totals"`
}

// Machine is the information that a restore of the machine needs.
type Machine struct {
	// Type is the machine type, such as "pc-q35-7.2". A restore needs a machine of
	// the same type.
	Type string `json:"type"`
	// UUID has 32 hexadecimal digits, or is empty.
	UUID string `json:"uuid,omitempty"`
	// PageSize is the target page size in bytes.
	PageSize int `json:"page_size"`
	// Sync is the position of the sync points in the migration.
	Sync vmstate.SyncMode `json:"sync"`
	// RunState is the run state of the machine, such as "running".
	RunState string `json:"run_state,omitempty"`
	// QEMU is the version of the source QEMU, if known.
	QEMU string `json:"qemu,omitempty"`
	// Hardware is the hardware of the machine, if known.
	Hardware *Hardware `json:"hardware,omitempty"`
}

// BlockInfo describes one RAM block.
type BlockInfo struct {
	Name string `json:"name"`
	// Length is in bytes.
	Length uint64 `json:"length"`
	// HugePage is the size in bytes of the pages that back the block, if the
	// stream names it.
	HugePage uint64 `json:"huge_page,omitempty"`
	// Pages is the number of stored pages. The other pages are zero.
	Pages uint64 `json:"pages"`
}

// Role is the purpose of an object. A Reader ignores an object of another role that is
// optional.
type Role string

// The roles of objects.
const (
	RolePages   Role = "pages"
	RoleIndex   Role = "index"
	RoleHead    Role = "head"
	RoleDevices Role = "devices"
	RoleStates  Role = "states"
)

// ObjectInfo describes one object.
type ObjectInfo struct {
	Name string `json:"name"`
	Role Role   `json:"role"`
	// Size is in bytes.
	Size int64 `json:"size"`
	// Parts is the number of parts of a page object, whose list is at its end. Format 1
	// has none.
	Parts int64 `json:"parts,omitempty"`
	// Optional objects are ignored by a Reader that does not know their role.
	Optional bool `json:"optional,omitempty"`
	// SHA256 is the digest of the object in format 1, in lower-case hexadecimal.
	SHA256 string `json:"sha256,omitempty"`
	// BLAKE3 is the digest in format 2: of the list of parts of a page object, of the
	// directory and the footer of an index, and of all bytes of other objects.
	BLAKE3 string `json:"blake3,omitempty"`
}

// digest returns the digest in a version of the format.
func (o *ObjectInfo) digest(version int) string {
	if version == version1 {
		return o.SHA256
	}
	return o.BLAKE3
}

// extentBytes returns the size of all extents of a page object, in bytes.
func (o *ObjectInfo) extentBytes(version int) int64 {
	if version == version1 {
		return o.Size
	}
	return o.Size - partsLen(o.Parts)
}

// Totals has the sums over a snapshot.
type Totals struct {
	// Pages is the number of stored pages, Zero the number of the others.
	// PageBytes is the size of the extents in the index, IndexBytes the size of
	// the index.
	Pages      uint64 `json:"pages"`
	Zero       uint64 `json:"zero"`
	Extents    uint64 `json:"extents"`
	PageBytes  int64  `json:"page_bytes"`
	IndexBytes int64  `json:"index_bytes"`
	// Superseded is the number of pages that a later round replaced but that are
	// still in an object.
	Superseded uint64 `json:"superseded"`
}

// Bytes returns the total size of all objects except the manifest, in bytes.
func (m *Manifest) Bytes() int64 {
	var n int64
	for _, o := range m.Objects {
		n += o.Size
	}
	return n
}

// Layout returns the layout of the RAM blocks. The error wraps guest.ErrLayout.
func (m *Manifest) Layout() (*guest.Layout, error) {
	blocks := make([]guest.Block, len(m.Blocks))
	for i, b := range m.Blocks {
		blocks[i] = guest.Block{Name: b.Name, Length: b.Length, HugePage: b.HugePage}
	}
	return guest.NewLayout(m.Machine.PageSize, blocks)
}

// digestKey and digestEnd stand around the digest that is the last member of a manifest: the
// SHA-256 of all bytes before digestKey. It is the same in all versions, so that a reader
// of an older version refuses a manifest for its version and not as corrupt.
const (
	digestKey = ",\n  \"sha256\": \""
	digestEnd = "\"\n}\n"
)

// encode returns the text of the manifest, which ends with its own digest.
func (m *Manifest) encode() ([]byte, error) {
	body, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	body = bytes.TrimSuffix(body, []byte("\n}"))
	return fmt.Appendf(body, "%s%x%s", digestKey, sha256.Sum256(body), digestEnd), nil
}

// decodeManifest decodes and checks the text of a manifest.
func decodeManifest(text []byte) (*Manifest, error) {
	if len(text) > maxManifestSize {
		return nil, corrupt(manifestName, "%d bytes (at most %d)", len(text), maxManifestSize)
	}
	tail := len(digestKey) + 2*sha256.Size + len(digestEnd)
	if len(text) < tail || !bytes.HasPrefix(text[len(text)-tail:], []byte(digestKey)) {
		return nil, corrupt(manifestName, "it does not end with its digest")
	}
	body := text[:len(text)-tail]
	sum := sha256.Sum256(body)
	if want := fmt.Appendf(nil, "%s%x%s", digestKey, sum, digestEnd); !bytes.Equal(text[len(body):], want) {
		return nil, corrupt(manifestName, "its digest is %x, but its text has another", sum)
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
	if m.Version < version1 || m.Version > newestVersion {
		return nil, fmt.Errorf("snapshot: unknown format version %d (want %d to %d; use the vmferry that wrote the snapshot: %s)", m.Version, version1, newestVersion, m.Tool)
	}
	if len(m.Requires) > 0 {
		return nil, fmt.Errorf("snapshot: the snapshot requires %q, which this vmferry does not know (use the vmferry that wrote the snapshot: %s)", m.Requires, m.Tool)
	}
	return m, m.check()
}

// maxEntries bounds the lists and maps of the manifest before they are decoded. An entry
// without members has 3 bytes of text and takes about a hundred bytes of memory.
var maxEntries = map[reflect.Type]int{
	reflect.TypeFor[[]BlockInfo]():       guest.MaxBlocks,
	reflect.TypeFor[[]ObjectInfo]():      maxPageObjects + 4 + maxOptional,
	reflect.TypeFor[[]DeviceInfo]():      maxHardwareEntries,
	reflect.TypeFor[[]string]():          maxRequires,
	reflect.TypeFor[map[string]int]():    maxHardwareEntries,
	reflect.TypeFor[map[string]uint32](): maxHardwareEntries,
}

// readManifest reads the manifest of a bucket.
func readManifest(ctx context.Context, b store.Bucket) (*Manifest, error) {
	text, err := readObject(ctx, b, manifestName, maxManifestSize, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %v has no %s (either the save did not complete, or this is not the directory of a snapshot)", ErrIncomplete, b, manifestName)
	}
	if err != nil {
		return nil, err
	}
	return decodeManifest(text)
}

// readStep is the number of bytes of an object that are read before more memory is
// allocated.
const readStep = 1 << 20

// readObject reads a whole object of at most limit bytes. Its memory grows with the bytes
// that it reads, not with the size that the object claims. It allocates memory for the
// first sure bytes at once, because the caller has verified them.
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
