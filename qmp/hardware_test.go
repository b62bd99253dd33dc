package qmp_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

func TestQueryRAMBlocks_ParsesTheTextOfEachVersion(t *testing.T) {
	tests := map[string]struct {
		text string
		want []qmp.RAMBlock
	}{
		"7.2": {
			text: "              Block Name    PSize              Offset               Used              Total\n" +
				"                  pc.ram    4 KiB  0x0000000000000000 0x0000000008000000 0x0000000008000000\n" +
				"    /rom@etc/acpi/tables    4 KiB  0x00000000080c0000 0x0000000000020000 0x0000000000200000\n",
			want: []qmp.RAMBlock{{Name: "pc.ram", Used: 128 << 20, Max: 128 << 20}, {Name: "/rom@etc/acpi/tables", Offset: 0x80c0000, Used: 128 << 10, Max: 2 << 20}},
		},
		"10.0 has more columns": {
			text: "   Block Name    PSize   Offset    Used   Total   HVA  RO\n" +
				"0000:00:01.0/virtio-net-pci.rom    2 MiB  0x0000000008080000 0x0000000000040000 0x0000000000040000 0x00007f3da2000000  ro\n",
			want: []qmp.RAMBlock{{Name: "0000:00:01.0/virtio-net-pci.rom", Offset: 0x8080000, Used: 256 << 10, Max: 256 << 10}},
		},
		"a name with a space":         {text: "a b 4 KiB 0x0 0x1 0x2\n", want: []qmp.RAMBlock{{Name: "a b", Used: 1, Max: 2}}},
		"lines that say other things": {text: "\n\nblock 0x1 0x2\nx 4 KiB 0x0 0x1\nx 4 KiB 0xg 0x1 0x2\nx 4 KiB 0x0 0x1 0x11111111111111111\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := qmptest.Start(t, qmptest.Config{})
			s.Answer("x-query-ramblock", map[string]string{"human-readable-text": test.text})
			got, err := dial(t, s).QueryRAMBlocks(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestQomProperty_Child(t *testing.T) {
	for kind, want := range map[string]string{"child<nvme>": "nvme", "link<bus>": "", "child<": "", "string": ""} {
		got, ok := qmp.QomProperty{Type: kind}.Child()
		if ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q, %v", kind, got, ok)
		}
	}
}

func TestMigrateIncomingAndStay_SetsExitOnErrorOff(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	s.Answer("migrate-incoming", nil)
	if err := dial(t, s).MigrateIncomingAndStay(t.Context(), "unix:/a"); err != nil {
		t.Fatal(err)
	}
	if got, want := string(s.Calls()[1].Args), `{"exit-on-error":false,"uri":"unix:/a"}`; got != want {
		t.Errorf("sent %s, want %s", got, want)
	}
}
