// Package termtext escapes text from peers and files for a terminal. Such text can hold
// escape sequences that move the cursor, change or hide other output, or send input in
// place of the user.
package termtext

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Name returns a name for use in a line or a table. It quotes the name as a Go string if a
// character of it is not printable.
func Name(s string) string {
	if s == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, unprintable) || s[0] == '"' {
		return strconv.Quote(s)
	}
	return s
}

// ShortName is like Name, and cuts a name that is longer than limit bytes.
func ShortName(s string, limit int) string {
	if len(s) <= limit {
		return Name(s)
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return Name(s[:limit]) + "..."
}

// Text escapes every character of s that is not printable, except newlines and tabs. JSON
// has such characters only inside strings; there the escapes are valid JSON and keep the
// values.
func Text(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, needsEscape) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1 || needsEscape(r) && r < ' ':
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case needsEscape(r) && r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		case needsEscape(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

func needsEscape(r rune) bool { return unprintable(r) && r != '\n' && r != '\t' }

// NewWriter returns a writer that writes Text of its input to w. Several goroutines may
// use it. A character may be split between calls. The bytes of an incomplete character at
// the end of the input are not written.
func NewWriter(w io.Writer) io.Writer { return &writer{w: w} }

type writer struct {
	mu   sync.Mutex
	w    io.Writer
	rest []byte // an incomplete character
}

func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := append(w.rest, p...)
	whole := len(text) - incompleteSuffix(text)
	_, err := io.WriteString(w.w, Text(string(text[:whole])))
	w.rest = append([]byte(nil), text[whole:]...)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// incompleteSuffix returns the length of the incomplete character at the end of text.
func incompleteSuffix(text []byte) int {
	for back := 1; back < utf8.UTFMax && back <= len(text); back++ {
		tail := text[len(text)-back:]
		if !utf8.RuneStart(tail[0]) {
			continue
		}
		if utf8.FullRune(tail) {
			return 0
		}
		return back
	}
	return 0
}
