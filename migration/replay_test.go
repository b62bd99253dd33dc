package migration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/vmstate"
)

// recording is a migration as it went over the wire: conns[0] is the main
// channel.
type recording struct {
	method multifd.Method
	conns  [][]byte
	ram0   string // SHA-256 of the memory that arrived
}

func unzstd(t testing.TB, path string) []byte {
	t.Helper()
	packed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	data, err := d.DecodeAll(packed, nil)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return data
}

func load(t testing.TB, dir string) recording {
	t.Helper()
	name := strings.Split(filepath.Base(dir), "-")[1]
	method, err := multifd.MethodNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	rec := recording{method: method}
	for i := range 3 {
		rec.conns = append(rec.conns, unzstd(t, filepath.Join(dir, fmt.Sprintf("conn%d.src.zst", i))))
	}
	sum, err := os.ReadFile(filepath.Join(dir, "ram0.sha256"))
	if err != nil {
		t.Fatal(err)
	}
	rec.ram0 = strings.Fields(string(sum))[0]
	return rec
}

// recordings loads the recorded migrations, those of ../shared included if it
// is there.
func recordings(t testing.TB) map[string]recording {
	t.Helper()
	dirs, err := filepath.Glob("testdata/captures/*-2ch")
	if err != nil || len(dirs) != 5 {
		t.Fatalf("%d recordings in testdata, want 5 (%v)", len(dirs), err)
	}
	if extra := "../../shared/captures/linux-qpl-2ch"; exists(extra) {
		dirs = append(dirs, extra)
	}
	recs := map[string]recording{}
	for _, dir := range dirs {
		recs[filepath.Base(dir)] = load(t, dir)
	}
	return recs
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// replay plays conns to a listener, each by a connection of its own, and
// closes them at their end.
func replay(t testing.TB, ln net.Listener, conns [][]byte) {
	t.Helper()
	for _, data := range conns {
		conn, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
		if err != nil {
			t.Errorf("connecting: %v", err)
			return
		}
		go func() {
			conn.Write(data)
			conn.(interface{ CloseWrite() error }).CloseWrite()
		}()
		t.Cleanup(func() { conn.Close() })
	}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := Address{"unix", filepath.Join(t.TempDir(), "s")}.Listen(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func receiveRecording(t testing.TB, rec recording, sink guest.Sink) (*Received, error) {
	t.Helper()
	ln := listen(t)
	go replay(t, ln, rec.conns)
	return Receive(context.Background(), ln, ReceiveConfig{
		Channels: len(rec.conns) - 1, Method: rec.method, Sink: sink, ConnectTimeout: time.Minute,
	})
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func TestRecordedMigrationsArriveInMemory(t *testing.T) {
	for name, rec := range recordings(t) {
		t.Run(name, func(t *testing.T) {
			mem := new(guestmem.Memory)
			got, err := receiveRecording(t, rec, mem)
			if err != nil {
				t.Fatal(err)
			}
			defer mem.Close()
			if sum := sha(mem.Bytes(mem.Layout().Block("ram0"))); sum != rec.ram0 {
				t.Errorf("ram0 has the digest %s, want %s", sum, rec.ram0)
			}
			if want := "pc-q35-10.0"; got.Config.Machine != want {
				t.Errorf("machine %q, want %q", got.Config.Machine, want)
			}
			if got.ExtraSyncs != 0 {
				t.Errorf("%d SYNCs without a sync point", got.ExtraSyncs)
			}
			main := rec.conns[0]
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
func TestAChannelThatNeverComesIsMissed(t *testing.T) {
	for name, rec := range recordings(t) {
		rec.conns = [][]byte{rec.conns[0], channelZero(t, rec)}
		mem := new(guestmem.Memory)
		_, err := receiveRecording(t, rec, mem)
		if !errors.Is(err, ErrChannels) || !strings.Contains(err.Error(), "set the same multifd-channels on both") {
			t.Errorf("%s: error %v", name, err)
		}
		mem.Close()
	}
}

// channelZero returns what came over the recording's channel 0.
func channelZero(t *testing.T, rec recording) []byte {
	t.Helper()
	for _, data := range rec.conns[1:] {
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

func TestRecordedMigrationsAreKeptAndSentAgain(t *testing.T) {
	for name, rec := range recordings(t) {
		for _, store := range []snapshot.Store{snapshot.StoreFast, snapshot.StoreDense, snapshot.StoreZstd, snapshot.StoreRaw} {
			t.Run(name+"/"+string(store), func(t *testing.T) {
				r, received := keep(t, rec, snapshot.Options{Store: store, ObjectSize: 1 << 20})
				if _, err := r.Verify(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				for _, method := range methodsFor(rec, store) {
					t.Run(method.Name(), func(t *testing.T) {
						sendAgain(t, r, received, method, rec.ram0)
					})
				}
			})
		}
	}
}

// methodsFor are the methods by which a kept recording is sent again: every
// recording with every store by one, and one of each by all.
func methodsFor(rec recording, store snapshot.Store) []multifd.Method {
	if store == snapshot.StoreFast && rec.method == multifd.QPL || store == snapshot.StoreZstd && rec.method == multifd.None {
		return multifd.Methods()
	}
	return []multifd.Method{rec.method}
}

// keep receives a recording into a snapshot and opens it.
func keep(t *testing.T, rec recording, opts snapshot.Options) (*snapshot.Reader, *Received) {
	t.Helper()
	dir, err := snapshot.CreateDir(filepath.Join(t.TempDir(), "snap"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := snapshot.Create(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	received, err := receiveRecording(t, rec, w)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(t.Context(), received.Meta()); err != nil {
		t.Fatal(err)
	}
	r, err := snapshot.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, received
}

// sendAgain sends a snapshot to a receiver with memory, over a return path.
func sendAgain(t *testing.T, r *snapshot.Reader, received *Received, method multifd.Method, want string) {
	t.Helper()
	ln := listen(t)
	mem := new(guestmem.Memory)
	defer mem.Close()
	var again *Received
	done := make(chan error, 1)
	go func() {
		var err error
		again, err = Receive(context.Background(), ln, ReceiveConfig{Channels: 3, Method: method, Sink: mem, ConnectTimeout: time.Minute})
		done <- err
	}()
	addr := Address{"unix", ln.Addr().String()}
	dial := func(ctx context.Context) (net.Conn, error) { return addr.Dial(ctx, nil) }
	if err := SendSnapshot(t.Context(), dial, r, SnapshotConfig{Channels: 3, Method: method}); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if sum := sha(mem.Bytes(mem.Layout().Block("ram0"))); sum != want {
		t.Errorf("ram0 has the digest %s, want %s", sum, want)
	}
	if !bytes.Equal(again.Head, received.Head) || !bytes.Equal(again.Devices, received.Devices) {
		t.Error("head or devices changed on the way")
	}
}
