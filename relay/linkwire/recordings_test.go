package linkwire

import (
	"bytes"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/corpus"
	"github.com/vmferry/vmferry/internal/soak"
	"github.com/vmferry/vmferry/internal/testfiles"
)

// shared are files that are too large for the module, where they are.
const shared = "../../../shared"

// corpusPages are pages of a running Linux guest, or generated ones where those are
// missing.
func corpusPages() []byte {
	const most = 16 << 20
	if pages, err := testfiles.ReadZstd(filepath.Join(shared, "corpus", "guest-pages.bin.zst")); err == nil {
		return pages[:min(len(pages), most)]
	}
	return corpus.Generate(1, most/8/corpus.PageSize)
}

// recordings are the connections of recorded migrations, by the migrations' names.
func recordings(t testing.TB) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	own, err := filepath.Glob("../../migration/testdata/captures/*/conn*.src.zst")
	if err != nil || len(own) != 15 {
		t.Fatalf("%d recorded connections, want 15 (%v)", len(own), err)
	}
	postcopy, _ := filepath.Glob(filepath.Join(shared, "captures", "postcopy", "*", "conn*.zst"))
	linux, _ := filepath.Glob(filepath.Join(shared, "captures", "linux-*", "conn*.src.zst"))
	if !soak.Long {
		linux = nil
	}
	for _, path := range append(append(own, postcopy...), linux...) {
		name := filepath.Base(filepath.Dir(path))
		all[name] = append(all[name], path)
	}
	return all
}

// TestRecordings_ComeOutIdentical carries each connection at each level and at levels
// that change, once as fast as possible and once in fragments. The connections of a
// migration share a cache.
func TestRecordings_ComeOutIdentical(t *testing.T) {
	levels := map[string][]Level{
		"raw": {LevelRaw}, "deflate": {LevelDeflate}, "zstd": {LevelZstd}, "zstd better": {LevelZstdBetter},
		"all": {LevelRaw, LevelDeflate, LevelZstd, LevelZstdBetter},
	}
	for name, paths := range recordings(t) {
		t.Run(name, func(t *testing.T) {
			var conns [][]byte
			for _, path := range paths {
				conns = append(conns, testfiles.Unzstd(t, path))
			}
			for levelName, levels := range levels {
				t.Run(strings.ReplaceAll(levelName, " ", "-"), func(t *testing.T) {
					plain, sent, forms := carryAll(t, conns, false, levels)
					t.Logf("%d bytes became %d (%.1f %%), pages %+v", plain, sent, 100*float64(sent)/float64(plain), forms)
					if sent > plain+plain/50+4096 {
						t.Errorf("%d bytes became %d", plain, sent)
					}
				})
				if levelName != "all" && !soak.Long {
					continue
				}
				t.Run(strings.ReplaceAll(levelName, " ", "-")+"-fragments", func(t *testing.T) {
					carryAll(t, conns, true, levels)
				})
			}
		})
	}
}

// carryAll carries the connections of a migration one after the other.
func carryAll(t *testing.T, conns [][]byte, inFragments bool, levels []Level) (plain, sent int, forms Forms) {
	rnd := rand.New(rand.NewPCG(1, uint64(len(levels))))
	s, r := NewSenderCache(64<<20, 4096), NewReceiverCache(64<<20, 4096)
	holder := NewEncoder(nil) // keeps the cache between connections
	holder.UseCache(s)
	defer holder.Close()
	for _, stream := range conns {
		p := newPair(t, 0, 4096)
		p.enc.UseCache(s)
		p.dec.UseCache(r)
		from := whole(stream)
		if inFragments {
			from = fragments(rnd, stream, true)
		}
		p.carryFrom(t, rnd, from, levels...)
		if !bytes.Equal(p.out, stream) {
			t.Fatalf("%d bytes came out, %d went in, the first difference is at %d", len(p.out), len(stream), firstDifference(p.out, stream))
		}
		plain, sent = plain+len(stream), sent+p.sent
		forms.Add(p.forms)
	}
	return plain, sent, forms
}

// whole delivers as many bytes as there is room for.
func whole(b []byte) Source {
	return func(p []byte, _ time.Duration) (int, error) {
		if len(b) == 0 {
			return 0, io.EOF
		}
		n := copy(p, b)
		b = b[n:]
		return n, nil
	}
}

// TestCorpus_LevelsAreOrdered: a higher level takes no more bytes.
func TestCorpus_LevelsAreOrdered(t *testing.T) {
	pages := corpus.Generate(1, 512)
	before := 0
	for l := LevelRaw; l <= LevelZstdBetter; l++ {
		p := newPair(t, 0, corpus.PageSize)
		for at := 0; at < len(pages); at += guest.PacketBytes {
			p.sendUnit(t, packetUnit("pc.ram", at/corpus.PageSize, corpus.PageSize, pagesOf(pages[at:at+guest.PacketBytes], corpus.PageSize)...), l, false)
		}
		t.Logf("%v: %d bytes became %d", l, len(pages), p.sent)
		if l > LevelRaw && p.sent > before {
			t.Errorf("%v takes %d bytes, the level before %d", l, p.sent, before)
		}
		before = p.sent
	}
}
