package migration_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

func TestReceive_RecordedMigrationsIntoMemory(t *testing.T) {
	for name, rec := range migration.Recordings(t) {
		t.Run(name, func(t *testing.T) {
			mem := new(guestmem.Memory)
			got, err := migration.ReceiveRecording(t, rec, mem)
			if err != nil {
				t.Fatal(err)
			}
			defer mem.Close()
			if sum := migration.Sha(mem.Bytes(mem.Layout().Block("ram0"))); sum != rec.RAM0 {
				t.Errorf("ram0 has the digest %s, want %s", sum, rec.RAM0)
			}
			if want := "pc-q35-10.0"; got.Config.Machine != want {
				t.Errorf("machine %q, want %q", got.Config.Machine, want)
			}
			if got.ExtraSyncs != 0 {
				t.Errorf("%d SYNCs without a sync point", got.ExtraSyncs)
			}
			main := rec.Conns[0]
			if !bytes.HasPrefix(main, got.Head) || !bytes.HasSuffix(main, got.Devices) {
				t.Error("head and devices are not the main channel's first and last bytes")
			}
			if d, ok := vmstate.FindEnd(got.Devices); !ok || len(d.Devices) < 20 {
				t.Errorf("the description has %d devices", len(d.Devices))
			}
		})
	}
}

// What went over a channel that this side does not know of would be missing, and
// the channel itself may be late.
func TestReceive_DetectsAMissingChannel(t *testing.T) {
	for name, rec := range migration.Recordings(t) {
		rec.Conns = [][]byte{rec.Conns[0], channelZero(t, rec)}
		mem := new(guestmem.Memory)
		_, err := migration.ReceiveRecording(t, rec, mem)
		if !errors.Is(err, transport.ErrChannels) || !strings.Contains(err.Error(), "set the same multifd-channels on both") {
			t.Errorf("%s: error %v", name, err)
		}
		mem.Close()
	}
}

// channelZero returns what came over the recording's channel 0.
func channelZero(t *testing.T, rec migration.Recording) []byte {
	t.Helper()
	for _, data := range rec.Conns[1:] {
		h, err := multifd.ReadHandshake(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if h.ID == 0 {
			return data
		}
	}
	t.Fatal("the recording has no channel 0")
	return nil
}

func TestReceive_RecordedMigrationsAreStoredAndSentAgain(t *testing.T) {
	for name, rec := range migration.Recordings(t) {
		for _, store := range []snapshot.Store{snapshot.StoreFast, snapshot.StoreDense, snapshot.StoreZstd, snapshot.StoreRaw} {
			if testing.Short() && len(methodsFor(rec, store)) == 1 && store != snapshot.StoreFast {
				continue
			}
			t.Run(name+"/"+string(store), func(t *testing.T) {
				r, received := keep(t, rec, snapshot.Options{Store: store, ObjectSize: 1 << 20})
				if _, err := r.Verify(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				for _, method := range methodsFor(rec, store) {
					t.Run(method.Name(), func(t *testing.T) {
						sendAgain(t, r, received, method, rec.RAM0)
					})
				}
			})
		}
	}
}

// methodsFor are the methods by which a kept recording is sent again: every
// recording with every store by one, and one of each by all.
func methodsFor(rec migration.Recording, store snapshot.Store) []multifd.Method {
	if store == snapshot.StoreFast && rec.Method == multifd.QPL || store == snapshot.StoreZstd && rec.Method == multifd.None {
		return multifd.Methods()
	}
	return []multifd.Method{rec.Method}
}

// keep receives a recording into a snapshot and opens it.
func keep(t *testing.T, rec migration.Recording, opts snapshot.Options) (*snapshot.Reader, *migration.Received) {
	t.Helper()
	dir, err := store.CreateDir(filepath.Join(t.TempDir(), "snap"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := snapshot.Create(t.Context(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	received, err := migration.ReceiveRecording(t, rec, w)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(t.Context(), stored.Meta(received)); err != nil {
		t.Fatal(err)
	}
	r, err := snapshot.Open(t.Context(), dir, snapshot.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, received
}

// sendAgain sends a snapshot to a receiver with memory, over a return path.
func sendAgain(t *testing.T, r *snapshot.Reader, received *migration.Received, method multifd.Method, want string) {
	t.Helper()
	ln := migration.Listen(t)
	mem := new(guestmem.Memory)
	defer mem.Close()
	var again *migration.Received
	done := make(chan error, 1)
	go func() {
		var err error
		again, err = migration.Receive(context.Background(), ln, migration.ReceiveConfig{Wire: migration.Wire{Channels: 3, Method: method}, Sink: mem, ConnectTimeout: time.Minute})
		done <- err
	}()
	addr := transport.Address{Network: "unix", Addr: ln.Addr().String()}
	dial := func(ctx context.Context) (net.Conn, error) { return addr.Dial(ctx, nil) }
	if err := stored.Send(t.Context(), dial, r, stored.SendConfig{Wire: migration.Wire{Channels: 3, Method: method}}); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if sum := migration.Sha(mem.Bytes(mem.Layout().Block("ram0"))); sum != want {
		t.Errorf("ram0 has the digest %s, want %s", sum, want)
	}
	if !bytes.Equal(again.Head, received.Head) || !bytes.Equal(again.Devices, received.Devices) {
		t.Error("head or devices changed on the way")
	}
}
