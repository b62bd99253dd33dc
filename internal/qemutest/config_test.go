package qemutest

import (
	"slices"
	"strings"
	"testing"
)

func TestConfigArgs_HoldOptions(t *testing.T) {
	for name, test := range map[string]struct {
		cfg  Config
		want []string
		not  []string
	}{
		"defaults":          {Config{}, []string{"-machine pc-q35-7.2 ", "-m 262144K ", "vmferry.fill=0 "}, []string{"-incoming", "-S", "-object"}},
		"incoming":          {Config{Incoming: true}, []string{"-incoming defer"}, nil},
		"paused":            {Config{Paused: true}, []string{"-S"}, nil},
		"workload":          {Config{FillMiB: 1, WorkMiB: 2, RateMiBps: 3}, []string{"vmferry.fill=1 vmferry.work=2 vmferry.rate=3"}, []string{"vmferry.part"}},
		"workload of parts": {Config{WorkMiB: 2, RateMiBps: 3, PartPercent: 70}, []string{"vmferry.rate=3 vmferry.part=70 "}, nil},
		"file": {Config{MemFile: "/dev/shm/a,b", MemoryMiB: 512}, []string{
			"-machine pc-q35-7.2,memory-backend=ram0",
			"-object memory-backend-file,id=ram0,share=on,mem-path=/dev/shm/a,,b,size=524288K"}, []string{"prealloc"}},
		"file, all touched": {Config{MemFile: "/m", Prealloc: true}, []string{"mem-path=/m,prealloc=on,size=262144K"}, nil},
		"7.2":               {Config{Version: "7.2", MemFile: "/m"}, []string{"-m 262016K ", ",size=262016K"}, nil},
		"exact size":        {Config{Version: "7.2", MemoryMiB: 9, MemoryBytes: 1 << 30}, []string{"-m 1048576K "}, nil},
		"extra":             {Config{ExtraArgs: []string{"-device", "virtio-rng"}}, []string{"-device virtio-rng"}, nil},
		"other machine":     {Config{Machine: "q35", Version: "10.0"}, []string{"-machine q35 "}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(test.cfg.withDefaults().args("K", "I", "/d"), " ")
			for _, want := range test.want {
				if !strings.Contains(got, want) {
					t.Errorf("no %q in %s", want, got)
				}
			}
			for _, not := range test.not {
				if strings.Contains(got, not) {
					t.Errorf("%q in %s", not, got)
				}
			}
		})
	}
}

// A destination must be the same machine as its source.
func TestConfigArgs_IncomingDiffersInNothingElse(t *testing.T) {
	cfg := Config{FillMiB: 10, MemFile: "/m", ExtraArgs: []string{"-x"}}.withDefaults()
	source := cfg.args("K", "I", "/d")
	cfg.Incoming = true
	destination := cfg.args("K", "I", "/d")
	rest := slices.DeleteFunc(destination, func(s string) bool { return s == "-incoming" || s == "defer" })
	if !slices.Equal(source, rest) {
		t.Errorf("source      %q\ndestination %q", source, destination)
	}
}
