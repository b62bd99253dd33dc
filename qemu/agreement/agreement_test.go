package agreement

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/snapshot"
)

func messages() []Message {
	description := &Description{
		Vmferry: "vmferry", QEMU: "10.0.2", Machine: "pc-q35-7.2", Alias: "q35", RunState: "running",
		Hardware: snapshot.Hardware{KVM: true, Memory: snapshot.MemoryInfo{Size: 1 << 30}, Devices: []snapshot.DeviceInfo{{Type: "virtio-rng-pci"}}},
		Blocks:   []Block{{Name: "pc.ram", Bytes: 1 << 30}},
	}
	return []Message{
		{Type: TypeHello, Description: description, Channels: 2, DryRun: true},
		{Type: TypeAnswer, Description: description, Differences: []string{"memory"}, Remarks: []string{"more"}},
		{Type: TypePrepare},
		{Type: TypeReady, Token: Token{1, 2}},
		{Type: TypeLoaded, RunState: "paused"},
		{Type: TypeRun, Run: true},
		{Type: TypeOutcome, Outcome: Stays, Reason: "why"},
		{Type: TypeDone},
		{Type: TypeFailed, Reason: "why"},
		{Type: TypeInquiry, Token: Token{15: 1}},
	}
}

func TestMessage_ArrivesAsItWasSent(t *testing.T) {
	var wire bytes.Buffer
	for _, m := range messages() {
		if err := writeMessage(&wire, m); err != nil {
			t.Fatalf("%s: %v", m.Type, err)
		}
		got, err := readMessage(&wire)
		if err != nil {
			t.Fatalf("%s: %v", m.Type, err)
		}
		// A list that is empty is left out.
		if diff := cmp.Diff(m.bounded(), got.bounded()); diff != "" {
			t.Errorf("%s (-sent +received):\n%s", m.Type, diff)
		}
	}
}

func TestMessage_LongReasonsAreCut(t *testing.T) {
	var wire bytes.Buffer
	long := strings.Repeat("why ", MaxMessage)
	if err := writeMessage(&wire, Message{Type: TypeFailed, Reason: long}); err != nil {
		t.Fatal(err)
	}
	if got, err := readMessage(&wire); err != nil || len(got.Reason) != maxReason {
		t.Errorf("a reason of %d bytes, %v", len(got.Reason), err)
	}
}

func framed(text string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
}

func TestMessage_HostileTextIsRefused(t *testing.T) {
	long := strings.Repeat("x", maxText+1)
	for name, text := range map[string][]byte{
		"a length beyond the bound":      {0xff, 0xff, 0xff, 0xff},
		"no JSON":                        framed("run"),
		"an unknown type":                framed(`{"type":"\u001b[31m"}`),
		"an unknown key":                 framed(`{"type":"done","more":1}`),
		"a key twice":                    framed(`{"type":"done","type":"run"}`),
		"no description":                 framed(`{"type":"hello","channels":2}`),
		"no channels":                    framed(`{"type":"hello","description":{"hardware":{"cpu":{},"memory":{}}}}`),
		"too many channels":              framed(`{"type":"hello","channels":256,"description":{"hardware":{"cpu":{},"memory":{}}}}`),
		"no token":                       framed(`{"type":"inquiry"}`),
		"half a token":                   framed(`{"type":"inquiry","token":"00ff"}`),
		"an unknown outcome":             framed(`{"type":"outcome","outcome":"perhaps"}`),
		"a long run state":               framed(`{"type":"loaded","run_state":"` + long + `"}`),
		"no run state":                   framed(`{"type":"loaded"}`),
		"a long machine type":            framed(`{"type":"answer","description":{"machine":"` + long + `","hardware":{"cpu":{},"memory":{}}}}`),
		"more blocks than a machine has": framed(`{"type":"answer","description":{"hardware":{"cpu":{},"memory":{}},"blocks":[` + strings.TrimSuffix(strings.Repeat(`{"name":"","bytes":0},`, maxEntries+1), ",") + `]}}`),
		"too many differences":           framed(`{"type":"answer","description":{"hardware":{"cpu":{},"memory":{}}},"differences":[` + strings.TrimSuffix(strings.Repeat(`"",`, maxLines+1), ",") + `]}`),
	} {
		m, err := readMessage(bytes.NewReader(text))
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v, want ErrMalformed", name, m, err)
		} else if strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: the error holds an escape sequence: %q", name, err)
		}
	}
}

func TestMessage_LengthAloneTakesNoMemory(t *testing.T) {
	text := framed(strings.Repeat(" ", 16))
	binary.BigEndian.PutUint32(text, MaxMessage)
	allocated := testing.AllocsPerRun(1, func() {
		if _, err := readMessage(bytes.NewReader(text)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v, want ErrUnexpectedEOF", err)
		}
	})
	if allocated > 20 {
		t.Errorf("%v allocations", allocated)
	}
}

func FuzzReceive(f *testing.F) {
	for _, m := range messages() {
		var wire bytes.Buffer
		if err := writeMessage(&wire, m); err != nil {
			f.Fatal(err)
		}
		f.Add(wire.Bytes())
	}
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, text []byte) {
		readPreamble(bytes.NewReader(text))
		m, err := readMessage(bytes.NewReader(text))
		if err != nil {
			return
		}
		// What is accepted can be sent, and arrives again.
		var wire bytes.Buffer
		if err := writeMessage(&wire, m); err != nil {
			t.Fatalf("%+v: %v", m, err)
		}
		if _, err := readMessage(&wire); err != nil {
			t.Fatalf("%+v: %v", m, err)
		}
	})
}

func listener(t *testing.T, cfg ListenerConfig) (*Listener, func() net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := NewListener(t.Context(), ln, cfg)
	t.Cleanup(l.Close)
	return l, func() net.Conn {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

// ended waits for the end of a connection.
func ended(t *testing.T, conn net.Conn) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(5 * time.Minute))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%d bytes, %v, want the end", n, err)
	}
}

func TestListener_OnlyLinksWithTheTokenArrive(t *testing.T) {
	l, dial := listener(t, ListenerConfig{})
	none := dial()
	if err := OpenLink(none, Token{}); err != nil {
		t.Fatal(err)
	}
	ended(t, none)
	token := l.ExpectLinks(1)
	wrong := dial()
	if err := OpenLink(wrong, Token{1}); err != nil {
		t.Fatal(err)
	}
	ended(t, wrong)
	right := dial()
	if err := OpenLink(right, token); err != nil {
		t.Fatal(err)
	}
	link := <-l.Links()
	defer link.Close()
	if _, err := right.Write([]byte("page")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(link, b); err != nil || string(b) != "page" {
		t.Errorf("%q, %v: the bytes after the preamble are the link's", b, err)
	}
	more := dial()
	if err := OpenLink(more, token); err != nil {
		t.Fatal(err)
	}
	ended(t, more)
}

func TestListener_SilentConnectionsAreClosed(t *testing.T) {
	l, dial := listener(t, ListenerConfig{IdentifyWithin: 100 * time.Millisecond})
	for range 40 {
		dial()
	}
	silent := dial()
	ended(t, silent)
	conn, err := OpenControl(dial(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	control := <-l.Controls()
	defer control.Close()
	if err := conn.Send(Message{Type: TypeDone}); err != nil {
		t.Fatal(err)
	}
	if m, err := control.Receive(t.Context()); err != nil || m.Type != TypeDone {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestConn_SilentPeerIsAnError(t *testing.T) {
	l, dial := listener(t, ListenerConfig{Silence: 200 * time.Millisecond})
	raw := dial()
	if err := writePreamble(raw, kindControl, Token{}); err != nil {
		t.Fatal(err)
	}
	control := <-l.Controls()
	defer control.Close()
	if m, err := control.Receive(t.Context()); !errors.Is(err, ErrSilent) {
		t.Errorf("%+v, %v, want ErrSilent", m, err)
	}
}

func TestConn_ReceiveEndsWithItsContext(t *testing.T) {
	l, dial := listener(t, ListenerConfig{})
	conn, err := OpenControl(dial(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	control := <-l.Controls()
	defer control.Close()
	interrupted := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(interrupted) })
	if m, err := control.Receive(ctx); !errors.Is(err, interrupted) {
		t.Errorf("%+v, %v, want the cause of the context", m, err)
	}
}

func TestPreamble_OtherPeersAreRefused(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"TLS":             {"\x16\x03\x01" + strings.Repeat("x", 40), "begins a TLS handshake"},
		"QEMU":            {"QEVM" + strings.Repeat("\x00", 40), "not a vmferry"},
		"another version": {"vmferry\x02" + strings.Repeat("\x00", 40), "version 2 of the protocol (want 1"},
		"another kind":    {magic + "\x09" + strings.Repeat("\x00", 16), "of the kind 9"},
		"too short":       {magic, "closed before it was identified"},
	} {
		if _, _, err := readPreamble(strings.NewReader(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
