package snapshot_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store/storetest"
)

// eachVersion runs a subtest for each version of the format that a Reader reads.
func eachVersion(t *testing.T, test func(t *testing.T, version int)) {
	t.Helper()
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("format%d", version), func(t *testing.T) { test(t, version) })
	}
}

// smallOf returns the snapshot of small in a version of the format.
func smallOf(t testing.TB, version int, store snapshot.Store, pageSize int) (*storetest.Bucket, *model) {
	t.Helper()
	b, m := small(t, store, pageSize)
	if version == 1 {
		downgrade(t, b)
	}
	return b, m
}

// forger changes a snapshot and makes all checksums and digests right again, as an
// attacker would.
type forger struct {
	b        *storetest.Bucket
	version  int
	manifest map[string]any
}

func newForger(t testing.TB, b *storetest.Bucket) *forger {
	t.Helper()
	f := &forger{b: b}
	if err := json.Unmarshal(b.Bytes("manifest.json"), &f.manifest); err != nil {
		t.Fatal(err)
	}
	f.version = int(f.manifest["version"].(float64))
	delete(f.manifest, "sha256")
	return f
}

// digestKey is the key of the digests of objects.
func (f *forger) digestKey() string {
	if f.version == 1 {
		return "sha256"
	}
	return "blake3"
}

func (f *forger) digest(data []byte) string {
	if f.version == 1 {
		sum := sha256.Sum256(data)
		return hex.EncodeToString(sum[:])
	}
	sum := blake3.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func (f *forger) object(name string) map[string]any {
	for _, o := range f.manifest["objects"].([]any) {
		if o := o.(map[string]any); o["name"] == name {
			return o
		}
	}
	return nil
}

// addParts changes the number of parts of the page object, which format 1 does not have.
func (f *forger) addParts(n int64) {
	o := f.object("pages-000000")
	parts, _ := o["parts"].(float64)
	o["parts"] = int64(parts) + n
}

// partsLen is the size of the list of an object's parts.
func (f *forger) partsLen(name string) int {
	if parts, ok := f.object(name)["parts"].(float64); ok {
		return 40*int(parts) + 32
	}
	return 0
}

// extents returns the bytes of a page object without the list of its parts.
func (f *forger) extents(name string) []byte {
	data := f.b.Bytes(name)
	return data[:len(data)-f.partsLen(name)]
}

// set replaces an object, and what the manifest has of it. The bytes of a page object are
// one part.
func (f *forger) set(name string, data []byte) {
	o := f.object(name)
	digested := data
	switch {
	case name == "index":
		f.manifest["totals"].(map[string]any)["index_bytes"] = len(data)
		if f.version > 1 {
			digested = data[binary.BigEndian.Uint64(data[len(data)-64+32:]):]
		}
	case f.version > 1 && strings.HasPrefix(name, "pages-"):
		digested = listOfParts(data)
		data = append(bytes.Clone(data), digested...)
		o["parts"] = float64(1)
	}
	f.b.Put(name, data)
	o["size"], o[f.digestKey()] = len(data), f.digest(digested)
}

// listOfParts is the list of one part, by section 4 of docs/snapshot-format.md.
func listOfParts(part []byte) []byte {
	be := binary.BigEndian
	sum := blake3.Sum256(part)
	list := be.AppendUint64(nil, uint64(len(part))<<32)
	list = append(list, sum[:]...)
	list = append(list, "VMFPART2"...)
	list = be.AppendUint32(list, 2)
	list = be.AppendUint32(list, 1)
	list = be.AppendUint64(list, uint64(len(part)))
	return be.AppendUint64(list, 0)
}

// sign writes the manifest.
func (f *forger) sign(t testing.TB) {
	t.Helper()
	body, err := json.MarshalIndent(f.manifest, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	f.signText(strings.TrimSuffix(string(body), "\n}"))
}

func (f *forger) signText(body string) {
	f.b.Put("manifest.json", fmt.Appendf(nil, "%s,\n  \"sha256\": \"%x\"\n}\n", body, sha256.Sum256([]byte(body))))
}

// bodyOf returns the text of a bucket's manifest without its digest.
func bodyOf(b interface{ Bytes(string) []byte }) string {
	text := string(b.Bytes("manifest.json"))
	return text[:strings.LastIndex(text, ",\n  \"sha256\":")]
}

// forgedIndex is an index taken apart, by section 5 of docs/snapshot-format.md.
type forgedIndex struct {
	version  int
	segments [][]byte
	dir      [][]byte
	footer   []byte
}

func takeApart(b []byte) *forgedIndex {
	be := binary.BigEndian
	x := &forgedIndex{footer: bytes.Clone(b[len(b)-64:])}
	x.version = int(be.Uint32(x.footer[8:]))
	dirAt := int(be.Uint64(x.footer[32:]))
	for line := range slices.Chunk(bytes.Clone(b[dirAt:len(b)-64]), x.lineLen()) {
		at, n := be.Uint64(line[8:]), uint64(be.Uint32(line[16:]))
		x.dir = append(x.dir, line)
		x.segments = append(x.segments, bytes.Clone(b[at:at+n]))
	}
	return x
}

// lineLen is the size of a line of the directory, and of a line of the extent table.
func (x *forgedIndex) lineLen() int { return 32 * x.version }

// extentLine is line n of a segment of the extent table.
func (x *forgedIndex) extentLine(segment, n int) []byte {
	return x.segments[segment][x.lineLen()*n : x.lineLen()*(n+1)]
}

// sumOf is the sum in a line of the extent table.
func (x *forgedIndex) sumOf(line []byte) []byte {
	if x.version == 1 {
		return line[20:24]
	}
	return line[32:64]
}

// setSum sets the sum in a line of the extent table to that of payload.
func (x *forgedIndex) setSum(line, payload []byte) { copy(x.sumOf(line), x.sum(payload)) }

func (x *forgedIndex) sum(payload []byte) []byte {
	if x.version == 1 {
		return binary.BigEndian.AppendUint32(nil, crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli)))
	}
	sum := blake3.Sum256(payload)
	return sum[:]
}

// bytes puts it together with right sums. Offsets and lengths are those of the segments
// unless keep says to leave the directory's.
func (x *forgedIndex) bytes(keep bool) []byte {
	be := binary.BigEndian
	var out, dir []byte
	for i, s := range x.segments {
		if !keep {
			be.PutUint64(x.dir[i][8:], uint64(len(out)))
			be.PutUint32(x.dir[i][16:], uint32(len(s)))
		}
		if x.version == 1 {
			copy(x.dir[i][24:28], x.sum(s))
		} else {
			copy(x.dir[i][32:64], x.sum(s))
		}
		out = append(out, s...)
	}
	for _, line := range x.dir {
		dir = append(dir, line...)
	}
	be.PutUint32(x.footer[12:], uint32(len(x.dir)))
	be.PutUint64(x.footer[32:], uint64(len(out)))
	x.sumFooter(dir)
	return append(append(out, dir...), x.footer...)
}

// sumFooter makes the checksums in the footer right, which only format 1 has.
func (x *forgedIndex) sumFooter(dir []byte) {
	if x.version == 1 {
		copy(x.footer[40:44], x.sum(dir))
		copy(x.footer[60:64], x.sum(x.footer[:60]))
	}
}

// downgrade makes a snapshot of format 2 one of format 1.
func downgrade(t testing.TB, b *storetest.Bucket) {
	t.Helper()
	f := newForger(t, b)
	extents := map[int][]byte{} // by the number of the page object
	for i, o := range f.manifest["objects"].([]any) {
		if o := o.(map[string]any); o["role"] == "pages" {
			extents[i] = f.extents(o["name"].(string))
		}
	}
	x := takeApart(b.Bytes("index"))
	old := forgedIndex{version: 1, footer: x.footer}
	copy(old.footer, "VMFIDX1\n")
	binary.BigEndian.PutUint32(old.footer[8:], 1)
	for i, s := range x.segments {
		if x.dir[i][0] == 1 {
			s = old.downgradeTable(x, i, extents)
		}
		old.segments, old.dir = append(old.segments, s), append(old.dir, x.dir[i][:32])
	}
	f.version, f.manifest["version"] = 1, 1
	for i, o := range f.manifest["objects"].([]any) {
		o := o.(map[string]any)
		delete(o, "blake3")
		delete(o, "parts")
		name := o["name"].(string)
		if data, ok := extents[i]; ok {
			f.set(name, data)
		} else {
			f.set(name, b.Bytes(name))
		}
	}
	f.set("index", old.bytes(false))
	f.sign(t)
}

// downgradeTable returns a segment of the extent table in format 1.
func (x *forgedIndex) downgradeTable(from *forgedIndex, segment int, objects map[int][]byte) []byte {
	be := binary.BigEndian
	var out []byte
	for n := range len(from.segments[segment]) / from.lineLen() {
		line := make([]byte, 32)
		copy(line, from.extentLine(segment, n)[:20])
		at, length := be.Uint64(line[8:]), uint64(be.Uint32(line[16:]))
		x.setSum(line, objects[int(be.Uint32(line))][at:at+length])
		out = append(out, line...)
	}
	return out
}
