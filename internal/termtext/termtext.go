// Package termtext makes text from peers and files fit for a terminal: such
// text can hold escape sequences that move the cursor, recolour or hide what
// stands there, or answer for the user.
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

// Name returns a name for a place in a line or a table: as it is if every
// character of it can be printed, else quoted as a Go string.
func Name(s string) string {
	if s == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, unprintable) || s[0] == '"' {
		return strconv.Quote(s)
	}
	return s
}

// ShortName is Name for a name of any length: of one longer than limit bytes
// it returns the beginning.
func ShortName(s string, limit int) string {
	if len(s) <= limit {
		return Name(s)
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return Name(s[:limit]) + "..."
}

// Text returns text with every character that cannot be printed written as an
// escape. Newlines and tabs stay. In JSON, which holds such characters inside of
// strings only, the escapes are JSON's own and change no value.
func Text(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, unfit) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1 || unfit(r) && r < ' ':
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case unfit(r) && r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		case unfit(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

func unfit(r rune) bool { return unprintable(r) && r != '\n' && r != '\t' }

// NewWriter returns a writer that passes Text on to w, for any number of
// goroutines. A character may be cut in two between calls; what is left of one
// at the end is not written.
func NewWriter(w io.Writer) io.Writer { return &writer{w: w} }

type writer struct {
	mu   sync.Mutex
	w    io.Writer
	rest []byte // the beginning of a character
}

func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := append(w.rest, p...)
	whole := len(text) - cutCharacter(text)
	_, err := io.WriteString(w.w, Text(string(text[:whole])))
	w.rest = append([]byte(nil), text[whole:]...)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// cutCharacter returns how many bytes at the end begin a character that is not whole.
func cutCharacter(text []byte) int {
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
