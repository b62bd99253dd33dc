package pagecodec_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/pagecodec"
)

func TestAccelerator_RequiredDeviceIsMissing(t *testing.T) {
	acc := pagecodec.NewAccelerator(pagecodec.Options{Policy: pagecodec.Require, Device: noDevice(t)})
	_, encErr := acc.NewEncoder(4096, deflate.Fast)
	_, decErr := acc.NewDecoder(4096)
	_, memErr := acc.Register([][]byte{make([]byte, 4096)})
	for what, err := range map[string]error{"Ready": acc.Ready(), "NewEncoder": encErr, "NewDecoder": decErr, "Register": memErr} {
		if !errors.Is(err, iaa.ErrUnavailable) || !strings.Contains(err.Error(), "required") {
			t.Errorf("%s: %v, want an error that wraps iaa.ErrUnavailable", what, err)
		}
	}
	if err := acc.Close(); err != nil {
		t.Error(err)
	}
}

func TestAccelerator_UsesSoftwareWithoutADevice(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	for name, acc := range map[string]*pagecodec.Accelerator{
		"nil":  nil,
		"zero": pagecodec.NewAccelerator(pagecodec.Options{Device: noDevice(t), Logger: logger}),
		"off":  pagecodec.NewAccelerator(pagecodec.Options{Policy: pagecodec.Off, Device: noDevice(t), Logger: logger}),
		"auto": pagecodec.NewAccelerator(pagecodec.Options{Policy: pagecodec.Auto, Device: noDevice(t), Logger: logger}),
	} {
		if err := acc.Ready(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if newEncoder(t, acc, 4096, deflate.Fast).Overlaps() || newDecoder(t, acc, 4096).Overlaps() {
			t.Errorf("%s: not software", name)
		}
		unregister, err := acc.Register([][]byte{make([]byte, 4096)})
		if err != nil || unregister() != nil {
			t.Errorf("%s: registering: %v", name, err)
		}
		if _, ok := acc.Stats(); ok {
			t.Errorf("%s: Stats reports a device, want none", name)
		}
		if err := acc.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := strings.Count(log.String(), "no usable accelerator"); n != 1 {
		t.Errorf("%d log lines about the missing accelerator, want 1 for auto:\n%s", n, &log)
	}
}

func TestAccelerator_RefusesInvalidPageSizes(t *testing.T) {
	acc, _ := modelled(t, pagecodec.Options{})
	for _, acc := range []*pagecodec.Accelerator{nil, acc} {
		for _, size := range []int{0, -1, 511, 1 << 20} {
			_, encErr := acc.NewEncoder(size, deflate.Fast)
			if _, err := acc.NewDecoder(size); err == nil || encErr == nil {
				t.Errorf("page size %d: %v, %v", size, encErr, err)
			}
		}
	}
}

func TestAccelerator_WorksInPlaceInRegisteredMemory(t *testing.T) {
	acc, m := modelled(t, pagecodec.Options{})
	mem, err := m.Guest(64*4096, true)
	if err != nil {
		t.Fatal(err)
	}
	unregister, err := acc.Register([][]byte{mem})
	if err != nil {
		t.Fatal(err)
	}
	pages := makePages(1, 4096, 64)
	places := make([][]byte, 64)
	for i := range places {
		places[i] = mem[i*4096 : (i+1)*4096]
		copy(places[i], pages[i])
	}
	e := newEncoder(t, acc, 4096, deflate.Dense)
	if err := errors.Join(e.Begin(places), e.Finish()); err != nil {
		t.Fatal(err)
	}
	checkStreams(t, e, places)
	b := collect(e, 4096, 64)
	clear(mem)
	d := newDecoder(t, acc, 4096)
	data, err := d.Buffer(len(b.data))
	if err != nil {
		t.Fatal(err)
	}
	copy(data, b.data)
	if err := errors.Join(d.Begin(b.lengths, data, places), d.Finish()); err != nil {
		t.Fatal(err)
	}
	for i := range places {
		if !bytes.Equal(places[i], pages[i]) {
			t.Errorf("page %d differs", i)
		}
	}
	if s, _ := acc.Stats(); s.Device.Bounced != 0 {
		t.Errorf("%d pages were copied", s.Device.Bounced)
	}
	e.Close()
	d.Close()
	if err := unregister(); err != nil {
		t.Error(err)
	}
	if err := m.Unmap(mem); err != nil {
		t.Error(err)
	}
}

func TestAccelerator_StatsIncludeClosedChannels(t *testing.T) {
	acc, _ := modelled(t, pagecodec.Options{})
	e := newEncoder(t, acc, 4096, deflate.Fast)
	if err := errors.Join(e.Begin(makePages(1, 4096, 64)), e.Finish()); err != nil {
		t.Fatal(err)
	}
	before, _ := acc.Stats()
	e.Close()
	e.Close()
	if err := acc.Close(); err != nil {
		t.Fatal(err)
	}
	after, ok := acc.Stats()
	if !ok || after.Pages.Hardware != 64 || after.Pages.Hardware != before.Pages.Hardware {
		t.Errorf("%d pages by the device, %d after closing, want 64", before.Pages.Hardware, after.Pages.Hardware)
	}
	text, err := json.Marshal(after)
	if err != nil || !bytes.HasPrefix(text, []byte(`{"device":{`)) || !bytes.Contains(text, []byte(`"pages":{"hardware":64,`)) {
		t.Errorf("as JSON: %s, %v", text, err)
	}
}
