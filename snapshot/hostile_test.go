package snapshot_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store/storetest"
)

// The small snapshot's index has one part of the extent table, with an extent
// of three pages and one of one, and a sparse chunk of each block.
const tablePart, ramChunk, vgaChunk = 0, 1, 2

func TestOpen_HostileIndexIsRefused(t *testing.T) {
	eachVersion(t, func(t *testing.T, version int) { hostileIndexIsRefused(t, version) })
}

func hostileIndexIsRefused(t *testing.T, version int) {
	be := binary.BigEndian
	extentLine := func(x *forgedIndex, n int) []byte { return x.extentLine(tablePart, n) }
	for _, tt := range []struct {
		name   string
		change func(x *forgedIndex)
		keep   bool // offsets and lengths of the directory
	}{
		{"an extent of no pages", func(x *forgedIndex) { extentLine(x, 0)[7] = 0 }, false},
		{"an extent of 129 pages", func(x *forgedIndex) { extentLine(x, 0)[7] = 129 }, false},
		{"an extent with fewer pages than are in it", func(x *forgedIndex) { extentLine(x, 0)[7] = 2 }, false},
		{"an extent with more pages than are in it", func(x *forgedIndex) { extentLine(x, 0)[7] = 4 }, false},
		{"an extent in an object that is none", func(x *forgedIndex) { be.PutUint32(extentLine(x, 0), 1) }, false},
		{"an extent in object 4 Gi", func(x *forgedIndex) { be.PutUint32(extentLine(x, 0), ^uint32(0)) }, false},
		{"an extent of a block that is none", func(x *forgedIndex) { be.PutUint16(extentLine(x, 0)[4:], 2) }, false},
		{"an extent of another block", func(x *forgedIndex) { be.PutUint16(extentLine(x, 0)[4:], 1) }, false},
		{"an extent of an unknown codec", func(x *forgedIndex) { extentLine(x, 0)[6] = 3 }, false},
		{"an extent of another codec", func(x *forgedIndex) { extentLine(x, 0)[6] = 0 }, false},
		{"an extent of no bytes", func(x *forgedIndex) { be.PutUint32(extentLine(x, 0)[16:], 0) }, false},
		{"an extent of 4 GiB", func(x *forgedIndex) { be.PutUint32(extentLine(x, 0)[16:], ^uint32(0)) }, false},
		{"an extent that ends behind its object", func(x *forgedIndex) { extentLine(x, 1)[19]++ }, false},
		{"an extent that begins behind its object", func(x *forgedIndex) { be.PutUint64(extentLine(x, 0)[8:], 1<<40) }, false},
		{"an extent whose end wraps around", func(x *forgedIndex) { be.PutUint64(extentLine(x, 0)[8:], ^uint64(0)-1) }, false},
		{"an extent twice", func(x *forgedIndex) { copy(extentLine(x, 1)[8:24], extentLine(x, 0)[8:24]) }, false},
		{"extents that overlap", func(x *forgedIndex) { be.PutUint64(extentLine(x, 1)[8:], be.Uint64(extentLine(x, 1)[8:])-1) }, false},
		{"extents in another order", func(x *forgedIndex) {
			a := bytes.Clone(extentLine(x, 0)[8:24])
			copy(extentLine(x, 0)[8:24], extentLine(x, 1)[8:24])
			copy(extentLine(x, 1)[8:24], a)
		}, false},
		{"a wrong checksum of an extent", func(x *forgedIndex) { x.sumOf(extentLine(x, 0))[0] ^= 1 }, false},
		{"an extent with a key", func(x *forgedIndex) {
			if x.version == 1 {
				extentLine(x, 0)[20] ^= 1 // of the checksum
				return
			}
			extentLine(x, 0)[21] = 1
		}, false},
		{"an encrypted extent", func(x *forgedIndex) { extentLine(x, 0)[6] |= 0x80 }, false},
		{"a slot beyond its extent", func(x *forgedIndex) { x.segments[ramChunk][2*3+8*2+7] = 3 }, false},
		{"slot 255", func(x *forgedIndex) { x.segments[ramChunk][2*3+8*2+7] = 255 }, false},
		{"a slot that is two pages", func(x *forgedIndex) { copy(x.segments[ramChunk][6+8:], x.segments[ramChunk][6:6+8]) }, false},
		{"a location of no extent", func(x *forgedIndex) { clear(x.segments[ramChunk][6 : 6+8]) }, false},
		{"a location beyond the extents", func(x *forgedIndex) { be.PutUint64(x.segments[ramChunk][6:], 3<<8) }, false},
		{"the highest location", func(x *forgedIndex) { be.PutUint64(x.segments[ramChunk][6:], ^uint64(0)) }, false},
		{"a location in another block's extent", func(x *forgedIndex) { be.PutUint64(x.segments[ramChunk][6:], 2<<8) }, false},
		{"a page beyond its block", func(x *forgedIndex) { be.PutUint16(x.segments[ramChunk][4:], 20) }, false},
		{"a page twice", func(x *forgedIndex) { copy(x.segments[ramChunk][2:4], x.segments[ramChunk][:2]) }, false},
		{"pages out of order", func(x *forgedIndex) {
			s := x.segments[ramChunk]
			s[0], s[1], s[2], s[3] = s[2], s[3], s[0], s[1]
		}, false},
		{"a chunk twice", func(x *forgedIndex) { be.PutUint16(x.dir[vgaChunk][2:], 0) }, false},
		{"a chunk of a block that is none", func(x *forgedIndex) { be.PutUint16(x.dir[ramChunk][2:], 2) }, false},
		{"a chunk beyond its block", func(x *forgedIndex) { be.PutUint32(x.dir[ramChunk][4:], 1) }, false},
		{"a chunk 4 Gi", func(x *forgedIndex) { be.PutUint32(x.dir[ramChunk][4:], ^uint32(0)) }, false},
		{"a chunk without pages", func(x *forgedIndex) { be.PutUint32(x.dir[ramChunk][20:], 0) }, false},
		{"a chunk of 4 Gi pages", func(x *forgedIndex) { be.PutUint32(x.dir[ramChunk][20:], ^uint32(0)) }, false},
		{"a chunk of a page less", func(x *forgedIndex) { be.PutUint32(x.dir[ramChunk][20:], 2) }, false},
		{"a chunk that says it is dense", func(x *forgedIndex) { x.dir[ramChunk][0] = 3 }, false},
		{"a segment of no kind", func(x *forgedIndex) { x.dir[ramChunk][0] = 0 }, false},
		{"a second part of the table as its first", func(x *forgedIndex) { be.PutUint32(x.dir[tablePart][4:], 1) }, false},
		{"a part of the table without extents", func(x *forgedIndex) { be.PutUint32(x.dir[tablePart][20:], 0) }, false},
		{"a part of the table missing", func(x *forgedIndex) { x.dir, x.segments = x.dir[1:], x.segments[1:] }, false},
		{"a chunk missing", func(x *forgedIndex) { x.dir, x.segments = x.dir[:2], x.segments[:2] }, false},
		{"a segment behind the segments", func(x *forgedIndex) { be.PutUint64(x.dir[ramChunk][8:], 1<<20) }, true},
		{"a segment whose end wraps around", func(x *forgedIndex) { be.PutUint64(x.dir[ramChunk][8:], ^uint64(0)-3) }, true},
		{"a segment of 4 GiB", func(x *forgedIndex) { be.PutUint32(x.dir[ramChunk][16:], ^uint32(0)) }, true},
		{"a segment inside another", func(x *forgedIndex) { be.PutUint64(x.dir[ramChunk][8:], be.Uint64(x.dir[ramChunk][8:])-8) }, true},
		{"more extents than there are", func(x *forgedIndex) { be.PutUint64(x.footer[16:], 3) }, false},
		{"a page more than there are", func(x *forgedIndex) { be.PutUint64(x.footer[24:], 5) }, false},
		{"another version", func(x *forgedIndex) { be.PutUint32(x.footer[8:], uint32(3-x.version)) }, false},
		{"version 3", func(x *forgedIndex) { be.PutUint32(x.footer[8:], 3) }, false},
		{"another magic", func(x *forgedIndex) { x.footer[0] = 'v' }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, _ := smallOf(t, version, snapshot.StoreFast, 1024)
			f := newForger(t, b)
			x := takeApart(b.Bytes("index"))
			if len(x.segments) != 3 || len(x.segments[tablePart]) != 2*x.lineLen() || len(x.segments[ramChunk]) != 30 {
				t.Fatalf("the small snapshot's index has another shape: %d segments", len(x.segments))
			}
			tt.change(x)
			f.set("index", x.bytes(tt.keep))
			f.sign(t)
			wantCorrupt(t, b, "verified")
			readsWithoutPanic(t, b)
		})
	}
}

// readsWithoutPanic reads all that a forged snapshot has: no digest says that a
// page is wrong, but no error is another's than ErrCorrupt.
func readsWithoutPanic(t *testing.T, b *storetest.Bucket) {
	t.Helper()
	r, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{})
	if err != nil {
		if !errors.Is(err, snapshot.ErrCorrupt) {
			t.Errorf("opening: %v", err)
		}
		return
	}
	defer r.Close()
	page := make([]byte, r.Layout().PageSize)
	for _, blk := range r.Layout().Blocks {
		for off := uint64(0); off < blk.Length; off += uint64(len(page)) {
			if err := r.Page(t.Context(), blk, off, page); err != nil && !errors.Is(err, snapshot.ErrCorrupt) {
				t.Errorf("page %#x of %s: %v", off, blk.Name, err)
			}
		}
	}
}

func TestForger_MakesValidSnapshots(t *testing.T) {
	eachVersion(t, func(t *testing.T, version int) {
		b, m := smallOf(t, version, snapshot.StoreFast, 1024)
		f := newForger(t, b)
		f.set("pages-000000", f.extents("pages-000000"))
		f.set("index", takeApart(b.Bytes("index")).bytes(false))
		f.manifest["later"] = "a member that this version does not know"
		f.sign(t)
		if err := verifyAll(b); err != nil {
			t.Fatalf("what was not changed is refused, so that the other tests say nothing: %v", err)
		}
		m.check(t, open(t, b))
	})
}

func TestOpen_HostileManifestIsRefused(t *testing.T) {
	eachVersion(t, func(t *testing.T, version int) { hostileManifestIsRefused(t, version) })
}

func hostileManifestIsRefused(t *testing.T, version int) {
	objects := func(f *forger) []any { return f.manifest["objects"].([]any) }
	machine := func(f *forger) map[string]any { return f.manifest["machine"].(map[string]any) }
	block := func(f *forger, n int) map[string]any { return f.manifest["blocks"].([]any)[n].(map[string]any) }
	totals := func(f *forger) map[string]any { return f.manifest["totals"].(map[string]any) }
	for _, tt := range []struct {
		name   string
		change func(f *forger)
	}{
		{"another format", func(f *forger) { f.manifest["format"] = "qcow2" }},
		{"an object name with a slash", func(f *forger) { f.object("head")["name"] = "../../etc/passwd" }},
		{"an absolute object name", func(f *forger) { f.object("head")["name"] = "/etc/passwd" }},
		{"a hidden object name", func(f *forger) { f.object("head")["name"] = ".head" }},
		{"an empty object name", func(f *forger) { f.object("head")["name"] = "" }},
		{"the manifest as an object", func(f *forger) { f.object("head")["name"] = "manifest.json" }},
		{"an object twice", func(f *forger) { f.manifest["objects"] = append(objects(f), f.object("head")) }},
		{"a negative size", func(f *forger) { f.object("head")["size"] = -1 }},
		{"a size of 8 EiB", func(f *forger) { f.object("devices")["size"] = int64(1<<63 - 1) }},
		{"a digest that is none", func(f *forger) { f.object("head")[f.digestKey()] = "0xabc" }},
		{"a short digest", func(f *forger) { f.object("head")[f.digestKey()] = "abcd" }},
		{"no digest", func(f *forger) { delete(f.object("head"), f.digestKey()) }},
		{"the digest of another version", func(f *forger) {
			o := f.object("head")
			o["sha256"], o["blake3"] = o["blake3"], o["sha256"]
		}},
		{"no index", func(f *forger) { f.object("index")["role"] = "other" }},
		{"parts of a head", func(f *forger) { f.object("head")["parts"] = 1 }},
		{"more parts than there are", func(f *forger) { f.addParts(1) }},
		{"fewer parts than there are", func(f *forger) { f.addParts(-1) }},
		{"parts without bytes", func(f *forger) { f.addParts(1 << 20) }},
		{"a negative number of parts", func(f *forger) { f.addParts(-1 << 20) }},
		{"parts whose sizes overflow", func(f *forger) { f.addParts(1 << 60) }},
		{"two heads", func(f *forger) { f.object("devices")["role"] = "head" }},
		{"the pages as the index", func(f *forger) { f.object("pages-000000")["role"], f.object("index")["role"] = "index", "pages" }},
		{"no objects", func(f *forger) { f.manifest["objects"] = nil }},
		{"no blocks", func(f *forger) { f.manifest["blocks"] = nil }},
		{"a block of 8 EiB", func(f *forger) { block(f, 0)["length"] = uint64(1 << 63) }},
		{"a block of half a page", func(f *forger) { block(f, 0)["length"] = 512 }},
		{"two blocks of one name", func(f *forger) { block(f, 0)["name"] = block(f, 1)["name"] }},
		{"a block that is too small for its pages", func(f *forger) { block(f, 0)["length"] = 1024 }},
		{"a block's pages", func(f *forger) { block(f, 0)["pages"] = 2 }},
		{"page size 0", func(f *forger) { machine(f)["page_size"] = 0 }},
		{"page size 4 GiB", func(f *forger) { machine(f)["page_size"] = 1 << 32 }},
		{"page size -4096", func(f *forger) { machine(f)["page_size"] = -4096 }},
		{"another page size", func(f *forger) { machine(f)["page_size"] = 2048 }},
		{"another machine", func(f *forger) { machine(f)["type"] = "pc-i440fx-7.2" }},
		{"an unknown sync mode", func(f *forger) { machine(f)["sync"] = "never" }},
		{"an unknown store", func(f *forger) { f.manifest["store"] = "lzma" }},
		{"other totals", func(f *forger) { totals(f)["pages"] = 3 }},
		{"other extents", func(f *forger) { totals(f)["extents"] = 3 }},
		{"totals of another type", func(f *forger) { f.manifest["totals"] = "many" }},
		{"a head that is none", func(f *forger) { f.set("head", []byte("QEVM")) }},
		{"an empty head", func(f *forger) { f.set("head", nil) }},
		{"states that are none", func(f *forger) { f.set("device-states", []byte("no packet at all")) }},
		{"states cut short", func(f *forger) { f.set("device-states", f.b.Bytes("device-states")[:280]) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, _ := smallOf(t, version, snapshot.StoreFast, 1024)
			f := newForger(t, b)
			tt.change(f)
			f.sign(t)
			wantCorrupt(t, b, "verified")
			readsWithoutPanic(t, b)
		})
	}
}

func TestOpen_ManifestThatIsNotJSONIsRefused(t *testing.T) {
	for name, body := range map[string]string{
		"empty": "", "no object": "[", "a string": `"x"`, "deep": strings.Repeat("[", 1<<20), "two objects": "{}\n{", "an open string": `{"format": "vmferry-snapshot`,
	} {
		b, _ := small(t, snapshot.StoreFast, 1024)
		newForger(t, b).signText(body)
		wantCorrupt(t, b, name)
	}
}

func TestOpen_LongManifestIsRefusedBeforeReading(t *testing.T) {
	b, _ := small(t, snapshot.StoreFast, 1024)
	b.Put("manifest.json", make([]byte, 16<<20+1))
	wantCorrupt(t, b, "17 MiB of manifest")
	if n := b.BytesRead("manifest.json"); n != 0 {
		t.Errorf("%d bytes of it were read", n)
	}
}

func TestOpen_OtherVersionIsNotErrCorrupt(t *testing.T) {
	b, _ := small(t, snapshot.StoreFast, 1024)
	f := newForger(t, b)
	f.manifest["version"] = 3
	f.sign(t)
	_, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{})
	if err == nil || errors.Is(err, snapshot.ErrCorrupt) || !strings.Contains(err.Error(), "version 3 (want 1 to 2") || !strings.Contains(err.Error(), "vmferry test") {
		t.Errorf("got %v, want an error that names the version and the tool", err)
	}
}

// TestReader_HostilePayloadIsRefused replaces the first extent's payload.
func TestReader_HostilePayloadIsRefused(t *testing.T) {
	eachVersion(t, func(t *testing.T, version int) { hostilePayloadIsRefused(t, version) })
}

func hostilePayloadIsRefused(t *testing.T, version int) {
	frame := func(t *testing.T, size int, opts ...zstd.EOption) []byte {
		w, err := zstd.NewWriter(nil, opts...)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		return w.EncodeAll(make([]byte, size), nil)
	}
	huge := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x80, 1, 0, 0} // a frame that says 2 GiB
	huge4 := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0}
	be := binary.BigEndian
	lengths := func(n ...uint32) (b []byte) {
		for _, v := range n {
			b = be.AppendUint32(b, v)
		}
		return b
	}
	for _, tt := range []struct {
		name    string
		store   snapshot.Store
		payload []byte
	}{
		{"a zstd frame that says 2 GiB", snapshot.StoreZstd, huge},
		{"a zstd frame that says 4 GiB", snapshot.StoreZstd, huge4},
		{"a zstd frame of a page more", snapshot.StoreZstd, frame(t, 4*1024)},
		{"a zstd frame of a page less", snapshot.StoreZstd, frame(t, 2*1024)},
		{"a zstd frame cut short", snapshot.StoreZstd, frame(t, 3*1024)[:8]},
		{"two zstd frames", snapshot.StoreZstd, append(frame(t, 3*1024), frame(t, 3*1024)...)},
		{"no zstd at all", snapshot.StoreZstd, []byte("no zstd")},
		{"raw pages, a byte less", snapshot.StoreRaw, make([]byte, 3*1024-1)},
		{"raw pages, a byte more", snapshot.StoreRaw, make([]byte, 3*1024+1)},
		{"no room for the lengths", snapshot.StoreFast, lengths(1, 1)},
		{"a length of 0", snapshot.StoreFast, lengths(0, 0, 0)},
		{"a length above a page", snapshot.StoreFast, append(lengths(1025, 1, 1), make([]byte, 1027)...)},
		{"lengths of 4 GiB", snapshot.StoreFast, append(lengths(^uint32(0), ^uint32(0), 1), 0)},
		{"lengths of too little", snapshot.StoreFast, append(lengths(1, 1, 1), 3, 0, 3, 0)},
		{"pages that are no deflate", snapshot.StoreFast, append(lengths(2, 2, 2), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)},
		{"pages of no bytes", snapshot.StoreFast, append(lengths(2, 2, 2), 3, 0, 3, 0, 3, 0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, _ := smallOf(t, version, tt.store, 1024)
			f := newForger(t, b)
			x := takeApart(b.Bytes("index"))
			first, second := x.extentLine(tablePart, 0), x.extentLine(tablePart, 1)
			old := int(be.Uint32(first[16:]))
			rest := f.extents("pages-000000")[old:]
			be.PutUint32(first[16:], uint32(len(tt.payload)))
			x.setSum(first, tt.payload)
			be.PutUint64(second[8:], uint64(len(tt.payload)))
			f.set("pages-000000", append(bytes.Clone(tt.payload), rest...))
			f.manifest["totals"].(map[string]any)["page_bytes"] = len(tt.payload) + len(rest)
			f.set("index", x.bytes(false))
			f.sign(t)
			wantCorrupt(t, b, "verified")
			readsWithoutPanic(t, b)
		})
	}
}

func TestOpen_RequirementsAreRefused(t *testing.T) {
	b, _ := small(t, snapshot.StoreFast, 1024)
	f := newForger(t, b)
	f.manifest["requires"] = []string{"encryption"}
	f.sign(t)
	_, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{})
	if err == nil || errors.Is(err, snapshot.ErrCorrupt) || !strings.Contains(err.Error(), `requires ["encryption"]`) || !strings.Contains(err.Error(), "vmferry test") {
		t.Errorf("got %v, want an error that names the requirement and the tool", err)
	}
}

func TestOpen_OptionalObjectsAreIgnored(t *testing.T) {
	for _, optional := range []bool{true, false} {
		b, m := small(t, snapshot.StoreFast, 1024)
		f := newForger(t, b)
		data := []byte("digests of pages")
		b.Put("digests", data)
		object := map[string]any{"name": "digests", "role": "digests", "size": len(data), "blake3": f.digest(data), "optional": optional}
		f.manifest["objects"] = append(f.manifest["objects"].([]any), object)
		f.sign(t)
		if !optional {
			wantCorrupt(t, b, "an object of an unknown role that is not optional")
			continue
		}
		if err := verifyAll(b); err != nil {
			t.Fatal(err)
		}
		m.check(t, open(t, b))
		other := b.Clone()
		data[0] ^= 1
		other.Put("digests", data)
		wantCorrupt(t, other, "an optional object with another digest")
	}
}

func TestVerify_HostileListOfPartsIsRefused(t *testing.T) {
	be := binary.BigEndian
	for name, change := range map[string]func(list []byte){
		"a part of no bytes":       func(list []byte) { be.PutUint32(list, 0) },
		"a part of a byte less":    func(list []byte) { be.PutUint32(list, be.Uint32(list)-1) },
		"a part of a byte more":    func(list []byte) { be.PutUint32(list, be.Uint32(list)+1) },
		"a part of 4 GiB":          func(list []byte) { be.PutUint32(list, ^uint32(0)) },
		"another digest of a part": func(list []byte) { list[8] ^= 1 },
		"another magic":            func(list []byte) { list[40] ^= 1 },
		"another version":          func(list []byte) { list[51]++ },
		"another number of parts":  func(list []byte) { list[55]++ },
		"another number of bytes":  func(list []byte) { list[63]++ },
		"a last byte":              func(list []byte) { list[71] = 1 },
	} {
		b, _ := small(t, snapshot.StoreFast, 1024)
		f := newForger(t, b)
		f.set("pages-000000", f.extents("pages-000000"))
		data := b.Bytes("pages-000000")
		list := data[len(data)-72:]
		change(list)
		b.Put("pages-000000", data)
		f.object("pages-000000")["blake3"] = f.digest(list)
		f.sign(t)
		wantCorrupt(t, b, name)
	}
}
