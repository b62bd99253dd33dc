package corpus

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

// Results published with one release must be comparable with those of the next.
func TestGenerate_PagesNeverChange(t *testing.T) {
	sum := sha256.Sum256(Generate(1, 256))
	const want = "4193257aaacfee97e501c8bdafad10d8b04592cee30fff66bb04da589075421b"
	if got := hex.EncodeToString(sum[:]); got != want {
		t.Errorf("pages of seed 1 have hash %s, want %s", got, want)
	}
}

func TestFill_KindsCompressAsTheyShould(t *testing.T) {
	bounds := map[Kind][2]float64{ // ratio of size before to after
		Text: {1.7, 4}, Pointers: {1.8, 8}, Code: {1.3, 4}, Sparse: {5, 200}, Random: {0.9, 1.01},
	}
	for _, kind := range Kinds() {
		var packed bytes.Buffer
		w, err := flate.NewWriter(&packed, 1)
		if err != nil {
			t.Fatal(err)
		}
		const pages = 32
		for i := range uint64(pages) {
			page := make([]byte, PageSize)
			Fill(page, kind, i)
			if _, err := w.Write(page); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			w.Reset(&packed)
		}
		ratio := float64(pages*PageSize) / float64(packed.Len())
		if b := bounds[kind]; ratio < b[0] || ratio > b[1] {
			t.Errorf("%v pages compress by %.2f, want %v to %v", kind, ratio, b[0], b[1])
		}
	}
}

func TestFill_TakesAnyLength(t *testing.T) {
	for _, kind := range Kinds() {
		for n := 1; n < 200; n++ {
			buf := bytes.Repeat([]byte{0xee}, n+1)
			Fill(buf[:n], kind, uint64(n))
			if buf[n] != 0xee {
				t.Fatalf("%v of %d bytes writes behind its end", kind, n)
			}
		}
	}
}
