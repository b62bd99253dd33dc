package transcode

import (
	"flag"
	"testing"

	"github.com/vmferry/vmferry/internal/seed"
	"github.com/vmferry/vmferry/multifd"
)

var update = flag.Bool("update", false, "write the seed corpus")

// FuzzCarry carries a connection of any bytes between any two methods. What is no
// multifd channel passes unchanged; what arrives of a channel has the same headers and
// can be carried back; an error names channel, packet and field.
func FuzzCarry(f *testing.F) {
	const pageSize = 64 << 10 // has the shortest header, so that seeds are small
	add := func(name string, in, out byte, wire []byte) {
		seed.Add(f, *update, name, in, out, wire)
	}
	add("main-channel", 0, 1, []byte("QEVM\x00\x00\x00\x03\x07"))
	add("silent", 1, 2, nil)
	add("begins-as-a-channel", 2, 0, []byte("\x11\x22\x33\x44\x00\x00\x00\x02"))
	for i, in := range multifd.Methods() {
		p := newPackets(f, in, pageSize)
		var wire []byte
		if in == multifd.None { // whose pages are too large for a seed
			wire = onWire(p.sync(), p.data(0, 2), deviceState(f, 9), put(p.sync(), 12, 0))
		} else {
			p.small = true
			wire = onWire(p.sync(), p.data(2, 1), p.data(0, 2), deviceState(f, 9), p.data(1, 0), p.sync())
		}
		add(in.Name(), byte(i), byte(i+1), wire)
	}
	f.Fuzz(func(t *testing.T, in, out byte, wire []byte) {
		methods := multifd.Methods()
		transcodeOrFail(t, wire, methods[int(in)%len(methods)], methods[int(out)%len(methods)])
	})
}
