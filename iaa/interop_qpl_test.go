//go:build qplinterop

package iaa_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

// These tests run by scripts/interop-qpl, which builds the oracle.

var interopPages = flag.Int("interop.pages", 10000, "pages each way")

// oracle is libqpl in another process; see bench/qpl-oracle.
type oracle struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func startOracle(t *testing.T) *oracle {
	t.Helper()
	command := strings.Fields(os.Getenv("VMFERRY_QPL_ORACLE"))
	if len(command) == 0 {
		t.Fatal("VMFERRY_QPL_ORACLE is not set: run scripts/interop-qpl")
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("oracle: %v", err)
		}
	})
	return &oracle{in, bufio.NewReader(out)}
}

func (o *oracle) do(op byte, data []byte) ([]byte, error) {
	req := binary.LittleEndian.AppendUint32([]byte{op}, uint32(len(data)))
	if _, err := o.in.Write(append(req, data...)); err != nil {
		return nil, err
	}
	var head [8]byte
	if _, err := io.ReadFull(o.out, head[:]); err != nil {
		return nil, err
	}
	res := make([]byte, binary.LittleEndian.Uint32(head[4:]))
	if _, err := io.ReadFull(o.out, res); err != nil {
		return nil, err
	}
	if status := binary.LittleEndian.Uint32(head[:]); status != 0 {
		return nil, fmt.Errorf("libqpl: status %d", status)
	}
	return res, nil
}

// interopInput returns n pages: those of a real guest if they are at hand, the
// others generated.
func interopInput(t *testing.T, n int) [][]byte {
	t.Helper()
	var out [][]byte
	if f, err := os.Open("../../shared/corpus/guest-pages.bin.zst"); err == nil {
		defer f.Close()
		z, err := zstd.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		for len(out) < n {
			p := make([]byte, pageSize)
			if _, err := io.ReadFull(z, p); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			out = append(out, p)
		}
		t.Logf("%d pages of a guest", len(out))
	}
	rng := rand.New(rand.NewPCG(11, 11))
	for len(out) < n {
		out = append(out, page(rng, pageSize))
	}
	return out
}

func TestInteropQPLInflatesOurs(t *testing.T) {
	input := interopInput(t, *interopPages)
	for _, version := range []uint32{0x100, 0x200} {
		for _, huffman := range []iaa.Huffman{iaa.HuffmanFixed, iaa.HuffmanDynamic} {
			t.Run(fmt.Sprintf("%v/version %#x", huffman, version), func(t *testing.T) {
				o := startOracle(t)
				_, d := start(t, iaamodel.Uniform(1, func(d *iaamodel.Device) { d.Version = version }), nil)
				s := session(t, d, iaa.SessionConfig{Huffman: huffman})
				raw, size := 0, 0
				for i, p := range input {
					r := compress(t, s, i%s.Slots(), p)
					if r.Overflow {
						raw++
						continue
					}
					size += len(r.Output)
					if got, err := o.do('i', r.Output); err != nil || !bytes.Equal(got, p) {
						t.Fatalf("page %d: libqpl gives %d bytes, %v", i, len(got), err)
					}
				}
				t.Logf("%d pages, %d do not shrink, the others take %.1f %%", len(input), raw, 100*float64(size)/float64((len(input)-raw)*pageSize))
			})
		}
	}
}

func TestInteropQPLStreamsInflate(t *testing.T) {
	input := interopInput(t, *interopPages)
	for _, op := range []byte{'f', 'd'} {
		t.Run(map[byte]string{'f': "fixed", 'd': "dynamic"}[op], func(t *testing.T) {
			o := startOracle(t)
			_, d := start(t, iaamodel.Uniform(1, nil), nil)
			s := session(t, d, iaa.SessionConfig{})
			raw := 0
			got := make([]byte, pageSize)
			for i, p := range input {
				stream, err := o.do(op, p)
				if err != nil {
					t.Fatalf("page %d: %v", i, err)
				}
				if len(stream) > pageSize {
					raw++
					continue
				}
				if err := s.SubmitInflate(0, stream, got); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Wait(t.Context(), 0); err != nil || !bytes.Equal(got, p) {
					t.Fatalf("page %d: wrong bytes, %v", i, err)
				}
			}
			if raw > len(input)/2 {
				t.Errorf("%d of %d pages do not shrink: too few are tested", raw, len(input))
			}
			t.Logf("%d pages, %d do not shrink", len(input), raw)
		})
	}
}
