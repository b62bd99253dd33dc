package linkwire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/multifd"
)

func TestHello_RoundTrip(t *testing.T) {
	h := Hello{Order: [16]byte{1, 15: 2}, Number: 1 << 40, After: 3, Cache: 64 << 20}
	if got, err := ReadHello(bytes.NewReader(h.Append(nil))); got != h || err != nil {
		t.Errorf("got %+v, %v", got, err)
	}
	r := Reply{Cache: 32 << 20}
	if got, err := ReadReply(bytes.NewReader(r.Append(nil))); got != r || err != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestHello_Malformed(t *testing.T) {
	hello, reply := Hello{Cache: 1}.Append(nil), Reply{Cache: 1}.Append(nil)
	with := func(b []byte, at int, v byte) []byte {
		b = bytes.Clone(b)
		b[at] = v
		return b
	}
	readHello := func(b []byte) error { _, err := ReadHello(bytes.NewReader(b)); return err }
	readReply := func(b []byte) error { _, err := ReadReply(bytes.NewReader(b)); return err }
	for _, tt := range []struct {
		name string
		err  error
		want error
		says string
	}{
		{"another magic", readHello(with(hello, 0, 0)), ErrMalformed, "the peer is no relay"},
		{"a multifd channel", readHello(append(multifd.Handshake{}.Append(nil), make([]byte, 64)...)), ErrMalformed, "the peer is no relay"},
		{"version 0", readHello(with(hello, 9, 0)), ErrVersion, "the peer speaks version 0, this side 1"},
		{"version 2", readReply(with(reply, 9, 2)), ErrVersion, "the peer speaks version 2, this side 1"},
		{"a Reply for a Hello", readHello(reply), ErrMalformed, "the same side of the link"},
		{"a Hello for a Reply", readReply(hello), ErrMalformed, "the same side of the link"},
		{"a cache beyond the bound", readHello(with(hello, 48, 0x80)), ErrMalformed, "a cache of 9223372036854775809 bytes"},
		{"a cache beyond the bound", readReply(with(reply, 16, 0xff)), ErrMalformed, "a cache of 18374686479671623681 bytes"},
		{"an end", readHello(hello[:63]), io.ErrUnexpectedEOF, "reading the other relay's first 64 bytes"},
		{"nothing", readReply(nil), io.EOF, "reading the other relay's first 64 bytes"},
	} {
		if !errors.Is(tt.err, tt.want) || !strings.Contains(tt.err.Error(), tt.says) {
			t.Errorf("%s: got %v, want %v that says %q", tt.name, tt.err, tt.want, tt.says)
		}
	}
	// Bytes that have no meaning yet are ignored.
	if err := readHello(with(hello, 63, 1)); err != nil {
		t.Error(err)
	}
}
