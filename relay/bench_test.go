package relay_test

import (
	"io"
	"sync"
	"testing"

	"github.com/vmferry/vmferry/relay"
)

// BenchmarkPair moves packets of raw pages through a pair over loopback, on two channels.
func BenchmarkPair(b *testing.B) {
	for _, compression := range []relay.Compression{relay.None, relay.Auto, relay.QPL, relay.Zstd} {
		b.Run(string(compression), func(b *testing.B) {
			p := newPair(b, relay.Config{Compression: compression, Cache: 64 << 20, CPUs: -1})
			const channels, packets = 2, 48
			streams := make([][]byte, channels)
			for i := range streams {
				streams[i] = channelBytes(uint64(i), uint8(i), packets)
			}
			b.SetBytes(int64(len(streams[0]) * channels))
			for b.Loop() {
				var all sync.WaitGroup
				for i := range streams {
					source, destination := p.connect()
					all.Go(func() {
						source.Write(streams[i])
						source.CloseWrite()
					})
					all.Go(func() {
						io.Copy(io.Discard, struct{ io.Reader }{destination})
						destination.CloseWrite()
						destination.Close()
					})
				}
				all.Wait()
			}
		})
	}
}
