package iaa_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

func TestDiscover_ReadsEverything(t *testing.T) {
	cfg := iaamodel.Config{Devices: []iaamodel.Device{{
		Version: 0x200, Node: 1, Engines: 8,
		Queues: []iaamodel.Queue{
			{Size: 64, Threshold: 32, BlockOnFault: true, MaxTransfer: 1 << 21},
			{Mode: "dedicated", Size: 16},
		},
	}}}
	m := machine(t, cfg)
	inv, err := iaa.Discover(m.Options())
	if err != nil {
		t.Fatal(err)
	}
	if len(inv.Devices) != 1 || len(inv.Devices[0].Queues) != 2 {
		t.Fatalf("found %+v", inv)
	}
	d := inv.Devices[0]
	if d.Name != "iax0" || d.Version != 0x200 || !d.PASID || d.Node != 1 || d.Engines != 8 || !d.HeaderGen() ||
		d.GenCap != 0x71f10901f0105 || d.GenCap&iaa.GenCapBlockOnFault == 0 || d.GenCap&iaa.GenCapDecompress == 0 || d.Problem != nil {
		t.Errorf("device: %+v", d)
	}
	q := d.Queues[0]
	if q.Name != "wq0.0" || q.Mode != "shared" || q.Size != 64 || q.Threshold != 32 || q.Capacity() != 32 || !q.BlockOnFault ||
		q.MaxTransfer != 1<<21 || q.Problem != nil || q.Device != "iax0" || filepath.Base(q.Path) != "wq0.0" {
		t.Errorf("queue: %+v", q)
	}
	if q := d.Queues[1]; q.Mode != "dedicated" || q.Capacity() != 16 {
		t.Errorf("queue: %+v", q)
	}
	if text := inv.Explain(); text != "" {
		t.Errorf("explains usable queues: %s", text)
	}
	out, err := json.Marshal(inv)
	if err != nil || !strings.Contains(string(out), `"block_on_fault":true`) {
		t.Errorf("JSON: %s, %v", out, err)
	}
}

func TestDiscover_SaysWhyNoQueueIsUsable(t *testing.T) {
	type edit func(*iaamodel.Device)
	queue := func(f func(*iaamodel.Queue)) edit { return func(d *iaamodel.Device) { f(&d.Queues[0]) } }
	for name, test := range map[string]struct {
		edit   edit
		reason iaa.Reason
		text   string
		opened bool // only found by opening
	}{
		"device disabled":        {func(d *iaamodel.Device) { d.State = "disabled" }, iaa.ReasonDisabled, "accel-config enable-device iax0", false},
		"no PASID":               {func(d *iaamodel.Device) { d.NoPASID = true }, iaa.ReasonNoPASID, "intel_iommu=on,sm_on", false},
		"no queue":               {func(d *iaamodel.Device) { d.Queues = nil }, iaa.ReasonNoQueue, "config-wq", false},
		"no opcodes":             {func(d *iaamodel.Device) { d.NoOpcodes = true }, iaa.ReasonNoDevice, "COMPRESS", false},
		"queue disabled":         {queue(func(q *iaamodel.Queue) { q.State = "disabled" }), iaa.ReasonDisabled, "accel-config enable-wq iax0/wq0.0", false},
		"kernel queue":           {queue(func(q *iaamodel.Queue) { q.Type, q.Driver = "kernel", "crypto" }), iaa.ReasonNotUser, "--type=user", false},
		"kernel driver":          {queue(func(q *iaamodel.Queue) { q.Driver = "dmaengine" }), iaa.ReasonNotUser, "driver dmaengine", false},
		"no node":                {queue(func(q *iaamodel.Queue) { q.NoNode = true }), iaa.ReasonNoNode, "udev", false},
		"transfers below a page": {queue(func(q *iaamodel.Queue) { q.MaxTransfer = 4095 }), iaa.ReasonTransfer, "iax0/wq0.0 --max-transfer-size=", false},
		"opened by another process": {queue(func(q *iaamodel.Queue) { q.Inherited = true }), iaa.ReasonInherited,
			"was opened by another process", true},
		"mmap and write refused": {queue(func(q *iaamodel.Queue) { q.RefuseMmap, q.RefuseWrite = true, true }),
			iaa.ReasonNoSubmission, "CAP_SYS_RAWIO", true},
	} {
		t.Run(name, func(t *testing.T) {
			m := machine(t, iaamodel.Uniform(1, test.edit))
			opts := m.Options()
			look := iaa.Discover
			if test.opened {
				look = func(o iaa.Options) (*iaa.Inventory, error) { return iaa.Probe(t.Context(), o) }
			}
			inv, err := look(opts)
			if err != nil {
				t.Fatal(err)
			}
			p := inv.Devices[0].Problem
			if len(inv.Devices[0].Queues) > 0 {
				p = inv.Devices[0].Queues[0].Problem
			}
			if p == nil || p.Reason != test.reason {
				t.Fatalf("problem: %+v, want %s", p, test.reason)
			}
			if text := inv.Explain(); !strings.Contains(text, test.text) || strings.Count(text, "\n") > 10 {
				t.Errorf("explanation lacks %q:\n%s", test.text, text)
			}
			d, err := iaa.Open(t.Context(), opts)
			if !errors.Is(err, iaa.ErrUnavailable) || d != nil || !strings.Contains(err.Error(), test.text) {
				t.Errorf("Open: %v, want ErrUnavailable with %q", err, test.text)
			}
			if nodes, regions := m.Live(); nodes != 0 || regions != 0 {
				t.Errorf("after a failed Open: %d nodes, %d regions", nodes, regions)
			}
		})
	}
}

func TestOpen_SkipsAnUnfitQueue(t *testing.T) {
	cfg := iaamodel.Uniform(1, func(d *iaamodel.Device) {
		d.Queues = []iaamodel.Queue{{MaxTransfer: 2048}, {Inherited: true}, {MaxTransfer: 16 << 10}, {}}
	})
	m, d := start(t, cfg, nil)
	var names []string
	for _, q := range d.Queues() {
		names = append(names, q.Name)
	}
	if got := strings.Join(names, " "); got != "wq0.2 wq0.3" {
		t.Errorf("queues in use: %s", got)
	}
	// Larger pages than one of the queues takes go to the other.
	for _, size := range []int{4096, 64 << 10} {
		s, err := d.NewSession(iaa.SessionConfig{Slots: 8, PageSize: size})
		if err != nil {
			t.Fatalf("pages of %d: %v", size, err)
		}
		page := bytes.Repeat([]byte("page "), size/5+1)[:size]
		for slot := range 8 {
			if err := s.SubmitCompress(slot, page); err != nil {
				t.Fatalf("pages of %d: %v", size, err)
			}
		}
		for slot := range 8 {
			if r, err := s.Wait(t.Context(), slot); err != nil || len(r.Output) == 0 {
				t.Errorf("pages of %d: slot %d: %d bytes, %v", size, slot, len(r.Output), err)
			}
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := d.NewSession(iaa.SessionConfig{Slots: 8, PageSize: 4 << 20}); err == nil {
		t.Error("a session with pages that no queue takes")
	}
	if v := m.Violations(); len(v) > 0 {
		t.Error(v)
	}
}

func TestProbe_ReportsTheSubmission(t *testing.T) {
	cfg := iaamodel.Uniform(1, func(d *iaamodel.Device) {
		d.Queues = []iaamodel.Queue{{}, {Mode: "dedicated"}, {RefuseMmap: true}, {Mode: "dedicated"}}
	})
	m := machine(t, cfg)
	opts := m.Options()
	busy, err := m.OpenQueue(filepath.Join(opts.DevRoot, "wq0.3"))
	if err != nil {
		t.Fatal(err)
	}
	inv, err := iaa.Probe(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, q := range inv.Devices[0].Queues {
		if q.Problem != nil {
			got = append(got, string(q.Problem.Reason))
			continue
		}
		got = append(got, q.Submission)
	}
	if want := "enqcmd movdir64b write busy"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
	if nodes, regions := m.Live(); nodes != 0 || regions != 0 {
		t.Errorf("after Probe: %d nodes, %d regions", nodes, regions)
	}
}

func TestDiscover_MachineWithoutIAA(t *testing.T) {
	opts := iaa.Options{SysfsRoot: filepath.Join(t.TempDir(), "none")}
	inv, err := iaa.Discover(opts)
	if err != nil || inv.Problem == nil || inv.Problem.Reason != iaa.ReasonNoDriver {
		t.Errorf("no driver: %+v, %v", inv, err)
	}
	opts.SysfsRoot = t.TempDir()
	if err := os.Mkdir(filepath.Join(opts.SysfsRoot, "dsa0"), 0o755); err != nil {
		t.Fatal(err)
	}
	inv, err = iaa.Discover(opts)
	if err != nil || inv.Problem == nil || inv.Problem.Reason != iaa.ReasonNoDevice {
		t.Errorf("no device: %+v, %v", inv, err)
	}
	if _, err := iaa.Open(t.Context(), opts); !errors.Is(err, iaa.ErrUnavailable) {
		t.Errorf("Open: %v", err)
	}
}

func TestDiscover_HostileSysfs(t *testing.T) {
	for _, file := range []string{"max_engines", "wq0.0/size", "gen_cap", "wq0.0/mode"} {
		for _, content := range []string{"", "999999999999999999999999", "99999999", "-1", "x\x00y"} {
			m := machine(t, iaamodel.Uniform(1, nil))
			opts := m.Options()
			if err := os.WriteFile(filepath.Join(opts.SysfsRoot, "iax0", file), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			inv, err := iaa.Discover(opts)
			if err != nil {
				t.Fatal(err)
			}
			if file == "gen_cap" && content == "99999999" {
				continue // a number like any other
			}
			if len(inv.Usable()) != 0 || inv.Explain() == "" {
				t.Errorf("%s of %q leaves a usable queue", file, content)
			}
		}
	}
}

func TestDiscover_Filter(t *testing.T) {
	cfg := iaamodel.Uniform(1, func(d *iaamodel.Device) { d.Queues = []iaamodel.Queue{{}, {}} })
	_, d := start(t, cfg, func(o *iaa.Options) {
		o.Filter = func(q iaa.QueueInfo) bool { return q.Name == "wq0.1" }
	})
	if q := d.Queues(); len(q) != 1 || q[0].Name != "wq0.1" {
		t.Errorf("queues: %+v", q)
	}
}
