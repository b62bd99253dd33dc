package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzStream plays arbitrary bytes to a connected client, which must come to
// an end with an error and with nothing left waiting.
func FuzzStream(f *testing.F) {
	for _, seed := range []string{
		`{"return":{},"id":1}` + "\r\n",
		`{"return":{"a":[1,2]},"id":1}` + "\n" + `{"return":{},"id":1}` + "\n",
		`{"error":{"class":"GenericError","desc":"no"},"id":1}` + "\n",
		`{"event":"STOP","timestamp":{"seconds":1,"microseconds":2},"data":{}}` + "\n\n\n",
		`{"QMP":{"version":{"qemu":{"micro":0,"minor":0,"major":10},"package":""},"capabilities":[]}}` + "\n",
		`{"return":null,"id":1}` + "\n" + `{"ret`,
		"\xff\xfe\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		near, far := net.Pipe()
		c := newConnection(near, bufio.NewReaderSize(near, 16), Version{})
		sub := c.Subscribe()
		_, answer, err := c.register()
		if err != nil {
			t.Fatal(err)
		}
		far.Write(stream)
		far.Close()
		<-c.done
		if !errors.Is(c.ended(), ErrClosed) {
			t.Fatalf("ended with %v, want ErrClosed", c.ended())
		}
		select {
		case m := <-answer:
			if m.Return == nil && m.Err == nil {
				t.Fatalf("an answer that is none: %+v", m)
			}
		default:
		}
		for e := range sub.Events() {
			if e.Name == "" {
				t.Fatalf("an event without a name: %+v", e)
			}
		}
	})
}

// FuzzReadLine compares the bounded reader with splitting the whole input.
func FuzzReadLine(f *testing.F) {
	f.Add([]byte("a\nbc\r\n\n \nd"), 8)
	f.Add([]byte("0123456789abcdef0123456789abcdef\n"), 16)
	f.Fuzz(func(t *testing.T, input []byte, limit int) {
		limit = min(max(limit, 1), 1<<10)
		r := bufio.NewReaderSize(bytes.NewReader(input), 16)
		var want []byte
		for rest := input; ; {
			raw, after, found := bytes.Cut(rest, []byte("\n"))
			if tooLong := len(raw)+1 > limit; !found || tooLong {
				break
			}
			rest = after
			if want = bytes.TrimSpace(raw); len(want) == 0 {
				continue
			}
			got, err := readLine(r, limit)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %q, %v; want %q", got, err, want)
			}
		}
		if got, err := readLine(r, limit); err == nil {
			t.Fatalf("got %q where no whole line within the limit is left", got)
		}
	})
}

// FuzzMigrateParameters checks that what was decoded survives being encoded
// and decoded again.
func FuzzMigrateParameters(f *testing.F) {
	f.Add([]byte(`{"multifd-channels":2,"multifd-compression":"zstd","max-bandwidth":18446744073709551615}`))
	f.Add([]byte(`{"announce-max":550,"tls-creds":"","downtime-limit":-1,"x":{"y":[null]}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var first, second MigrateParameters
		if json.Unmarshal(b, &first) != nil {
			return
		}
		encoded, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(encoded, &second); err != nil {
			t.Fatalf("%s: %v", encoded, err)
		}
		// Encoding may write the same string with other escapes.
		meaning := cmp.Transformer("meaning", func(raw json.RawMessage) (v any) {
			d := json.NewDecoder(bytes.NewReader(raw))
			d.UseNumber()
			if err := d.Decode(&v); err != nil {
				t.Fatal(err)
			}
			return v
		})
		if diff := cmp.Diff(first, second, meaning); diff != "" {
			t.Fatal(diff)
		}
	})
}
