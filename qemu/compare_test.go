package qemu

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
)

// hardware is a machine whose parts the tests change.
func hardware() snapshot.Hardware {
	return snapshot.Hardware{
		CPU: snapshot.CPUInfo{
			Type: "qemu64-x86_64-cpu", Target: "x86_64", Signature: "AuthenticAMD 15/107/1", Count: 2,
			Topology: map[string]int{"maxcpus": 2, "sockets": 1, "cores": 2, "threads": 1},
			Features: map[string]uint32{"1.ECX": 1 << 25, "7.0.EBX": 1 << 5},
		},
		Memory:  snapshot.MemoryInfo{Size: 128 << 20},
		Devices: []snapshot.DeviceInfo{{ID: "net0", Type: "virtio-net-pci", Bus: "pcie.0", Address: "02.0"}, {Type: "virtio-rng-pci", Bus: "pcie.0", Address: "03.0"}},
		Onboard: map[string]int{"hpet": 1},
	}
}

func TestCompare_NamesEachDifference(t *testing.T) {
	tests := map[string]struct {
		change  func(had, is *snapshot.Hardware)
		version qmp.Version // 10.0.0
		want    []string    // a part of each difference, in order
		remarks []string
	}{
		"nothing":                 {},
		"no topology on one side": {change: func(_, is *snapshot.Hardware) { is.CPU.Topology = nil }},
		"another number of CPUs": {
			change: func(_, is *snapshot.Hardware) { is.CPU.Count = 4; is.CPU.Topology["maxcpus"] = 4 },
			want:   []string{`"-smp 2,maxcpus=2,cores=2"`},
		},
		"the same CPUs in other sockets": {
			change: func(_, is *snapshot.Hardware) { is.CPU.Topology["sockets"], is.CPU.Topology["cores"] = 2, 1 },
			want:   []string{`"-smp 2,maxcpus=2,sockets=1,cores=2"`},
		},
		"another CPU type says enough of its features": {
			change: func(_, is *snapshot.Hardware) {
				is.CPU.Type, is.CPU.Features = "max-x86_64-cpu", map[string]uint32{"1.ECX": 1}
			},
			want: []string{`this QEMU has "max-x86_64-cpu" (start it with "-cpu qemu64"`},
		},
		"another host's CPU": {
			change: func(_, is *snapshot.Hardware) { is.CPU.Signature = "GenuineIntel 6/85/7" },
			want:   []string{"GenuineIntel"},
		},
		"a feature less": {
			change: func(_, is *snapshot.Hardware) { delete(is.CPU.Features, "7.0.EBX") },
			want:   []string{`the snapshot has avx2, this QEMU has not (start it with the -cpu of the saved machine: "-cpu qemu64,+avx2"`},
		},
		"a feature more": {
			change: func(_, is *snapshot.Hardware) { is.CPU.Features["D.1.EAX"] = 1 << 3 },
			want:   []string{"this QEMU has CPUID[D.1.EAX] bit 3, the snapshot has not (start it with the -cpu of the saved machine)"},
		},
		"a feature more in another version": {
			change:  func(_, is *snapshot.Hardware) { is.CPU.Features["D.1.EAX"] = 1 << 3 },
			version: qmp.Version{Major: 11, Minor: 1},
			remarks: []string{"CPUID[D.1.EAX] bit 3"},
		},
		"other memory": {
			change: func(_, is *snapshot.Hardware) {
				is.Memory = snapshot.MemoryInfo{Size: 1 << 30, Slots: 2, MaxSize: 2<<30 + 1024}
			},
			want: []string{`has 128M, this QEMU has 1G,slots=2,maxmem=2097153K (start it with "-m 128M")`},
		},
		"unknown memory": {change: func(had, _ *snapshot.Hardware) { had.Memory = snapshot.MemoryInfo{} }},
		"anonymous devices in another order": {change: func(had, is *snapshot.Hardware) {
			other := snapshot.DeviceInfo{Type: "virtio-rng-pci", Bus: "pcie.0", Address: "04.0"}
			had.Devices = append(had.Devices, other)
			is.Devices = []snapshot.DeviceInfo{other, is.Devices[1], is.Devices[0]}
		}},
		"a device of another type": {
			change: func(_, is *snapshot.Hardware) { is.Devices[0].Type = "e1000" },
			want:   []string{`device "net0" of type "virtio-net-pci" on bus "pcie.0" at "02.0": this QEMU's has the type "e1000" (start it with "-device virtio-net-pci,id=net0,bus=pcie.0,addr=02.0,...")`},
		},
		"two devices that changed places": {
			change: func(had, is *snapshot.Hardware) {
				had.Devices[1] = snapshot.DeviceInfo{ID: "net1", Type: "virtio-net-pci", Bus: "pcie.0", Address: "03.0"}
				is.Devices[0].Address, is.Devices[1] = "03.0", snapshot.DeviceInfo{ID: "net1", Type: "virtio-net-pci", Bus: "pcie.0", Address: "02.0"}
			},
			want: []string{`"net0"`, `"net1"`},
		},
		"one device less and one more": {
			change: func(_, is *snapshot.Hardware) { is.Devices[1].Type = "usb-tablet" },
			want:   []string{`"virtio-rng-pci" on bus "pcie.0" at "03.0": this QEMU has none`, `"usb-tablet" on bus "pcie.0" at "03.0": this QEMU has it`},
		},
		"other on-board devices": {
			change: func(_, is *snapshot.Hardware) { is.Onboard["hpet"], is.Onboard["vmport"] = 0, 1 },
			want:   []string{`"hpet"`, `"vmport"`},
		},
		"other on-board devices in another version": {
			change:  func(_, is *snapshot.Hardware) { is.Onboard["hpet"] = 0 },
			version: qmp.Version{Major: 7, Minor: 2},
		},
		"KVM": {
			change:  func(had, is *snapshot.Hardware) { had.KVM = true; is.Onboard["hpet"] = 0 },
			remarks: []string{"ran with KVM, this QEMU runs without KVM"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			had, here := hardware(), &described{hardware: hardware()}
			if test.change != nil {
				test.change(&had, &here.hardware)
			}
			if test.version == (qmp.Version{}) {
				test.version = qmp.Version{Major: 10}
			}
			got := compareSaved(&snapshot.Manifest{Machine: snapshot.Machine{QEMU: "10.0.2", Hardware: &had}}, here, test.version)
			contain(t, "differences", got.differences, test.want)
			contain(t, "remarks", got.remarks, test.remarks)
		})
	}
}

// contain checks that there are as many lines as wanted parts of them.
func contain(t *testing.T, what string, lines, parts []string) {
	t.Helper()
	if len(lines) != len(parts) {
		t.Fatalf("%d %s, want %d:\n%s", len(lines), what, len(parts), strings.Join(lines, "\n"))
	}
	for i, part := range parts {
		if !strings.Contains(lines[i], part) {
			t.Errorf("%s: got %q, want %q in it", what, lines[i], part)
		}
	}
}

func TestCompare_Blocks(t *testing.T) {
	const rom = "0000:00:02.0/virtio-net-pci.rom"
	saved := []snapshot.BlockInfo{
		{Name: "pc.ram", Length: 64 << 20}, {Name: "/rom@etc/acpi/tables", Length: 128 << 10}, {Name: rom, Length: 256 << 10},
	}
	here := func() map[string]qmp.RAMBlock {
		return map[string]qmp.RAMBlock{
			"pc.ram":               {Used: 64 << 20, Max: 64 << 20},
			"/rom@etc/acpi/tables": {Used: 128 << 10, Max: 2 << 20},
			rom:                    {Used: 256 << 10, Max: 256 << 10},
			"of another device":    {Used: 4096, Max: 4096},
		}
	}
	tests := map[string]struct {
		change func(map[string]qmp.RAMBlock)
		want   []string
	}{
		"the same":                  {func(map[string]qmp.RAMBlock) {}, nil},
		"a QEMU that does not tell": {func(m map[string]qmp.RAMBlock) { clear(m) }, nil},
		"tables of another size": {func(m map[string]qmp.RAMBlock) {
			m["/rom@etc/acpi/tables"] = qmp.RAMBlock{Used: 64 << 10, Max: 2 << 20}
		}, nil},
		"tables that cannot grow so far": {func(m map[string]qmp.RAMBlock) {
			m["/rom@etc/acpi/tables"] = qmp.RAMBlock{Used: 64 << 10, Max: 64 << 10}
		}, []string{"firmware"}},
		"memory of another size":            {func(m map[string]qmp.RAMBlock) { m["pc.ram"] = qmp.RAMBlock{Used: 65 << 20, Max: 65 << 20} }, []string{"the snapshot has 64M, this QEMU has 65M (start it with the same -m"}},
		"an option ROM of another size":     {func(m map[string]qmp.RAMBlock) { m[rom] = qmp.RAMBlock{Used: 512 << 10, Max: 512 << 10} }, []string{"option ROM of 262144 bytes"}},
		"no option ROM":                     {func(m map[string]qmp.RAMBlock) { delete(m, rom) }, []string{"romfile="}},
		"memory of another name":            {func(m map[string]qmp.RAMBlock) { m["/objects/mem"] = m["pc.ram"]; delete(m, "pc.ram") }, []string{`called "/objects/mem"`}},
		"memory of another name and length": {func(m map[string]qmp.RAMBlock) { m["/objects/mem"] = qmp.RAMBlock{Used: 1 << 20}; delete(m, "pc.ram") }, []string{"the same memory backends"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			blocks := here()
			test.change(blocks)
			d := &described{memdev: []qmp.MemoryBackend{{ID: "mem"}}}
			for name, b := range blocks {
				b.Name = name
				d.blocks = append(d.blocks, b)
			}
			got := compareSaved(&snapshot.Manifest{Blocks: saved}, d, qmp.Version{Major: 10})
			contain(t, "differences", got.differences, test.want)
		})
	}
}

func TestCompare_MissingFeaturesAreNamed(t *testing.T) {
	got := missingFeatures(map[string]uint32{"1.EDX": 1<<25 | 1<<31, "80000001.EDX": 1 << 29, "14.0.ECX": 1}, map[string]uint32{"1.EDX": 1 << 25})
	if diff := cmp.Diff([]string{"pbe", "CPUID[14.0.ECX] bit 0", "lm"}, got); diff != "" {
		t.Error(diff)
	}
	for word, names := range featureNames {
		if len(names) > 32 {
			t.Errorf("%s has %d names", word, len(names))
		}
	}
}

func TestForgetsWrites_BlocksBehindTheFirst(t *testing.T) {
	const mib = 1 << 20
	main := qmp.RAMBlock{Name: "pc.ram", Used: 64 * mib, Max: 64 * mib}
	behind := qmp.RAMBlock{Name: "/objects/more", Offset: 64 * mib, Used: 32 * mib, Max: 32 * mib}
	tests := map[string]struct {
		blocks []qmp.RAMBlock
		want   bool
	}{
		"the main memory is the first block": {[]qmp.RAMBlock{main, {Name: "vga.vram", Offset: 64 * mib, Used: 16 * mib, Max: 16 * mib}}, false},
		"memory behind the first block":      {[]qmp.RAMBlock{main, behind}, true},
		"memory of an odd length behind it":  {[]qmp.RAMBlock{main, {Name: "/objects/more", Offset: 64 * mib, Used: 32*mib + 4096, Max: 33 * mib}}, false},
		"video memory longer than the first": {[]qmp.RAMBlock{{Name: "pc.ram", Used: 8 * mib, Max: 8 * mib}, {Name: "vga.vram", Offset: 8 * mib, Used: 16 * mib, Max: 16 * mib}}, true},
		"a QEMU that does not tell":          {nil, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := &described{blocks: test.blocks, memdev: []qmp.MemoryBackend{{ID: "pc.ram"}, {ID: "more"}}}
			if got := d.forgetsWrites(); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
