package codec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/internal/corpus"
)

func TestRun_MeasuresBothModes(t *testing.T) {
	pages := corpus.Generate(5, 64)
	results, err := Run(context.Background(), bytes.NewReader(pages), Options{Passes: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 2 || results[0].Codec != "deflate-fast" || results[1].Codec != "deflate-dense" {
		t.Fatalf("results %+v", results)
	}
	for _, r := range results {
		if r.CompressMBps <= 0 || r.InflateMBps <= 0 {
			t.Errorf("%s: speeds %v and %v", r.Codec, r.CompressMBps, r.InflateMBps)
		}
		// One page in sixteen is noise.
		if r.RawPages != 4 {
			t.Errorf("%s: %d raw pages, want 4", r.Codec, r.RawPages)
		}
	}
	if fast, dense := results[0].Ratio, results[1].Ratio; fast < 1.5 || dense <= fast {
		t.Errorf("ratios %v and %v", fast, dense)
	}
}

func TestRun_MeasuresTheTiers(t *testing.T) {
	before := deflate.Tier()
	tiers := deflate.Tiers()
	results, err := Run(context.Background(), bytes.NewReader(corpus.Generate(5, 16)), Options{Passes: 1, Tiers: tiers})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 2*len(tiers) {
		t.Fatalf("%d results of the tiers %v", len(results), tiers)
	}
	for i, r := range results {
		if r.Tier != tiers[i/2] {
			t.Errorf("result %d is of the tier %s, want %s", i, r.Tier, tiers[i/2])
		}
	}
	if deflate.Tier() != before {
		t.Errorf("the tier %s is in use afterwards, want %s", deflate.Tier(), before)
	}
	results, err = Run(context.Background(), bytes.NewReader(make([]byte, 4096)), Options{Passes: 1})
	if err != nil || len(results) != 2 || results[0].Tier != before {
		t.Errorf("without tiers: %+v, error %v; want the tier %s", results, err, before)
	}
	if _, err := Run(context.Background(), nil, Options{Tiers: []string{"sse"}}); err == nil {
		t.Error("no error for a tier that does not exist")
	}
}

func TestResult_KeysAreAContract(t *testing.T) {
	got, err := json.Marshal(Result{Codec: "deflate-fast", Tier: "avx2", CompressMBps: 1, InflateMBps: 2, Ratio: 3, RawPages: 4})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"codec":"deflate-fast","tier":"avx2","compress_mbps":1,"inflate_mbps":2,"ratio":3,"raw_pages":4}`
	if string(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestLoad_CompressedCorpus(t *testing.T) {
	pages := corpus.Generate(5, 16)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Load(bytes.NewReader(z.EncodeAll(pages, nil)), Options{})
	if err != nil || !bytes.Equal(got, pages) {
		t.Errorf("differs, error %v", err)
	}
}

func TestLoad_BuiltInCorpus(t *testing.T) {
	pages, err := Load(nil, Options{})
	if err != nil || len(pages) != builtInPages*corpus.PageSize {
		t.Errorf("%d bytes, error %v", len(pages), err)
	}
}

func TestLoad_UnusableCorpora(t *testing.T) {
	for name, r := range map[string]*strings.Reader{
		"empty":    strings.NewReader(""),
		"one byte": strings.NewReader("x"),
		"odd":      strings.NewReader(strings.Repeat("x", 4097)),
		"large":    strings.NewReader(strings.Repeat("x", 3*4096)),
	} {
		if _, err := Run(context.Background(), r, Options{MaxBytes: 8192}); !errors.Is(err, ErrCorpus) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := Load(bytes.NewReader(append(zstdMagic, "nonsense"...)), Options{}); err == nil {
		t.Error("no error from a damaged zstd stream")
	}
}

func TestRun_StopsWhenTheContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, bytes.NewReader(make([]byte, 4096)), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
