package vmferry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// patience is only against hanging.
const patience = 5 * time.Minute

func socketIn(dir, name string) transport.Address {
	return transport.Address{Network: "unix", Addr: filepath.Join(dir, name)}
}

// received makes a snapshot of sendMemory's machine.
func received(t *testing.T, to vmferry.Snapshot) *vmferry.ReceiveResult {
	t.Helper()
	address := socketIn(t.TempDir(), "s")
	sent := make(chan error, 1)
	go func() { sent <- sendMemory(address) }()
	result, err := vmferry.Receive(t.Context(), to, vmferry.ReceiveOptions{Listen: address, ConnectTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	return result
}

func TestReceive_ResultIsTheJSONOfTheCommand(t *testing.T) {
	result := received(t, vmferry.Snapshot{Path: filepath.Join(t.TempDir(), "snap")})
	if result.Pages != 2 || result.Zero != 62 || result.Bytes == 0 || result.Received == 0 || result.Total <= 0 {
		t.Errorf("got %+v", result)
	}
	wantKeys(t, result, "pages", "received_bytes", "snapshot", "snapshot_bytes", "total_ns", "zero_pages")
}

// wantKeys checks the keys of a value's JSON, which scripts use.
func wantKeys(t *testing.T, v any, want ...string) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	dec, keys := json.NewDecoder(bytes.NewReader(text)), []string(nil)
	if _, err := dec.Token(); err != nil {
		t.Fatal(err)
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key.(string))
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, keys); diff != "" {
		t.Errorf("the keys of %s differ (-want +got):\n%s", text, diff)
	}
}

func TestSend_SnapshotArrivesInAnotherOne(t *testing.T) {
	dir := t.TempDir()
	from, to := vmferry.Snapshot{Path: filepath.Join(dir, "from")}, vmferry.Snapshot{Path: filepath.Join(dir, "to"), Store: snapshot.StoreRaw, Tool: "test"}
	received(t, from)
	address := socketIn(t.TempDir(), "s")
	arrived := make(chan error, 1)
	go func() {
		_, err := vmferry.Receive(t.Context(), to, vmferry.ReceiveOptions{Listen: address, ConnectTimeout: patience})
		arrived <- err
	}()
	result, err := vmferry.Send(t.Context(), from, vmferry.SendOptions{Connect: address, SendConfig: stored.SendConfig{ConnectTimeout: patience}})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-arrived; err != nil {
		t.Fatal(err)
	}
	if result.Pages != 2 || !result.Confirmed || result.Sent == 0 {
		t.Errorf("got %+v", result)
	}
	wantKeys(t, result, "confirmed", "digests_verified", "pages", "sent_bytes", "total_ns")
	found, err := vmferry.Inspect(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	if found.Store != snapshot.StoreRaw || found.Tool != "test" || found.Totals.Pages != 2 || !found.Described || len(found.Devices) != 1 {
		t.Errorf("the second snapshot is %+v with %+v", found, found.Manifest)
	}
	raw := [2]string{filepath.Join(dir, "from.raw"), filepath.Join(dir, "to.raw")}
	var memory [2][]byte
	for i, s := range []vmferry.Snapshot{from, to} {
		if _, err := vmferry.Export(t.Context(), s, raw[i], vmferry.ExportOptions{Format: vmferry.ExportRaw}); err != nil {
			t.Fatal(err)
		}
		if memory[i], err = os.ReadFile(raw[i]); err != nil {
			t.Fatal(err)
		}
	}
	if len(memory[0]) != 64*4096 || !bytes.Equal(memory[0], memory[1]) {
		t.Errorf("the exported memory of %d and %d bytes differs", len(memory[0]), len(memory[1]))
	}
}

func TestReceive_FailureLeavesNoSnapshot(t *testing.T) {
	path, address := filepath.Join(t.TempDir(), "snap"), socketIn(t.TempDir(), "s")
	done := make(chan error, 1)
	go func() {
		_, err := vmferry.Receive(t.Context(), vmferry.Snapshot{Path: path}, vmferry.ReceiveOptions{Listen: address, Wire: migration.Wire{Channels: 1}, ConnectTimeout: patience})
		done <- err
	}()
	// The source uses one channel more than the destination expects.
	if err := sendMemory(address); err == nil {
		t.Error("the source did not fail")
	}
	if err := <-done; !errors.Is(err, transport.ErrChannels) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a snapshot is left: %v", err)
	}
}

func TestReceive_EndedContextLeavesNoSnapshot(t *testing.T) {
	interrupted := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	path, address := filepath.Join(t.TempDir(), "snap"), socketIn(t.TempDir(), "s")
	reports := make(chan migration.Progress)
	go func() {
		<-reports // it listens
		cancel(interrupted)
	}()
	_, err := vmferry.Receive(ctx, vmferry.Snapshot{Path: path}, vmferry.ReceiveOptions{Listen: address, Progress: func(p migration.Progress) {
		select {
		case reports <- p:
		case <-ctx.Done():
		}
	}})
	if !errors.Is(err, interrupted) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a snapshot is left: %v", err)
	}
	if conn, err := net.Dial("unix", address.Addr); err == nil {
		conn.Close()
		t.Error("the socket still accepts")
	}
}

func TestSave_MonitorThatDoesNotExistLeavesNoSnapshot(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "snap")
	_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: path}, qemu.SaveOptions{Monitor: qmp.Socket(filepath.Join(dir, "none"))})
	if !errors.Is(err, qmp.ErrNoQEMU) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a snapshot is left: %v", err)
	}
}

// Send adds an empty description to a stream without one. It describes nothing.
func TestInspect_EmptyDescriptionIsNone(t *testing.T) {
	snap, address := vmferry.Snapshot{Path: filepath.Join(t.TempDir(), "snap")}, socketIn(t.TempDir(), "s")
	sent := make(chan error, 1)
	go func() { sent <- sendMemoryAnd(vmstate.WithDescription([]byte{0}), address) }()
	if _, err := vmferry.Receive(t.Context(), snap, vmferry.ReceiveOptions{Listen: address, ConnectTimeout: patience}); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	found, err := vmferry.Inspect(t.Context(), snap)
	if err != nil || found.Described {
		t.Errorf("got %+v, %v", found, err)
	}
}

func TestExport_UnknownBlockIsNamedAndNoFileIsMade(t *testing.T) {
	dir := t.TempDir()
	snap, out := vmferry.Snapshot{Path: filepath.Join(dir, "snap")}, filepath.Join(dir, "out")
	received(t, snap)
	_, err := vmferry.Export(t.Context(), snap, out, vmferry.ExportOptions{Format: vmferry.ExportRaw, Block: "vga.vram"})
	if err == nil || !strings.Contains(err.Error(), `"vga.vram"; there are ["ram"]`) {
		t.Errorf("error %v", err)
	}
	if _, err := vmferry.Export(t.Context(), snap, out, vmferry.ExportOptions{Format: "qcow2"}); err == nil || !strings.Contains(err.Error(), `"qcow2"`) {
		t.Errorf("error %v", err)
	}
	if _, err := vmferry.Export(t.Context(), snap, out, vmferry.ExportOptions{Format: vmferry.ExportMappedRAM, Block: "ram"}); err == nil {
		t.Error("no error for one block of a format that has all")
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("a file is left: %v", err)
	}
}

func TestVerify_DamagedObjectIsAnError(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "snap")
	received(t, vmferry.Snapshot{Path: dir})
	if _, err := vmferry.Verify(t.Context(), vmferry.Snapshot{Path: dir}, nil); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "devices")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := vmferry.Verify(t.Context(), vmferry.Snapshot{Path: dir}, nil); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
}
