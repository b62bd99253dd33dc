package transcode

import (
	"bytes"
	"io"
	"testing"

	"github.com/vmferry/vmferry/iaa/iaamodel"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/pagecodec"
)

// allocated are the allocations a packet that a method may make once it is under way.
// Where a deflate block has codes of more than nine bits, the decoder makes tables for
// them.
var allocated = map[string]float64{"zlib": 2, "qatzip": 2}

func TestChannel_DoesNotAllocateInTheSteadyState(t *testing.T) {
	for _, in := range multifd.Methods() {
		for _, out := range multifd.Methods() {
			t.Run(in.Name()+" to "+out.Name(), func(t *testing.T) {
				const warm, runs = 4, 20
				p := newPackets(t, in, page4K)
				var wire []byte
				for range warm + runs + 1 { // AllocsPerRun calls once more
					wire = append(wire, p.data(40, 8)...)
					wire = append(wire, p.sync()...)
				}
				cfg, err := Config{In: in, Out: out}.withDefaults()
				if err != nil {
					t.Fatal(err)
				}
				c := newChannel(bytes.NewReader(wire), io.Discard, 3, cfg)
				defer c.close()
				two := func() {
					for range 2 {
						if err := c.packet(); err != nil {
							t.Fatal(err)
						}
					}
				}
				for range warm {
					two()
				}
				if n, most := testing.AllocsPerRun(runs, two), allocated[in.Name()]; n > most {
					t.Errorf("%v allocations for a packet and a SYNC, want at most %v", n, most)
				}
			})
		}
	}
}

func TestCarry_QPLUsesTheAccelerator(t *testing.T) {
	m, err := iaamodel.New(t.TempDir(), iaamodel.Uniform(1, nil))
	if err != nil {
		t.Fatal(err)
	}
	acc := pagecodec.NewAccelerator(pagecodec.Options{Policy: pagecodec.Require, Device: m.Options()})
	p := newPackets(t, multifd.None, page4K)
	sent := onWire(p.sync(), p.data(128, 0), p.data(3, 2), p.sync())
	deflated, err := carryBytes(t, bytes.NewReader(sent), Config{Out: multifd.QPL, Accelerator: acc})
	if err != nil {
		t.Fatal(err)
	}
	back, err := carryBytes(t, bytes.NewReader(deflated), Config{In: multifd.QPL, Accelerator: acc})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back, sent) {
		t.Error("other packets come back")
	}
	if s, ok := acc.Stats(); !ok || s.Pages.Hardware == 0 {
		t.Errorf("the device did nothing: %+v", s)
	}
	if err := acc.Close(); err != nil {
		t.Error(err)
	}
	if v := m.Violations(); len(v) > 0 {
		t.Errorf("the driver did wrong: %v", v)
	}
}
