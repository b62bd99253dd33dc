//go:build realqemu

package qemu_test

import (
	"path/filepath"
	"testing"
)

// QEMU alone lets 10 MB/s through where it is told 1 MB/s.
func TestRealQEMUSave_BandwidthIsKept(t *testing.T) {
	const bandwidth = 8 << 20
	for _, version := range []string{"10.0", "7.2"} {
		t.Run(version, func(t *testing.T) {
			src := source(t, version)
			opts := options(src)
			opts.Channels, opts.Bandwidth = 4, bandwidth
			result := saveTo(t, filepath.Join(t.TempDir(), "snap"), opts)
			rate := float64(result.Received) / result.Total.Seconds()
			if rate > 1.15*bandwidth {
				t.Errorf("%d bytes in %v: %.0f bytes a second; %d are allowed", result.Received, result.Total, rate, bandwidth)
			}
			runsOn(t, src)
		})
	}
}
