// Package termtext makes text from peers and files fit for a terminal: such
// text can hold escape sequences that move the cursor, recolour or hide what
// stands there, or answer for the user.
package termtext

import (
	"io"
	"strconv"
	"strings"
	"unicode"
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
// escape of a Go string. Newlines and tabs stay.
func Text(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, unfit) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 || unfit(r) {
			quoted := strconv.Quote(s[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

func unfit(r rune) bool { return unprintable(r) && r != '\n' && r != '\t' }

// NewWriter returns a writer that passes Text on to w. A character may be cut
// in two between calls; what is left of one at the end is not written.
func NewWriter(w io.Writer) io.Writer { return &writer{w: w} }

type writer struct {
	w    io.Writer
	rest []byte // the beginning of a character
}

func (w *writer) Write(p []byte) (int, error) {
	text := append(w.rest, p...)
	whole := len(text)
	for back := 1; back < utf8.UTFMax && back <= len(text); back++ {
		if tail := text[len(text)-back:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				whole -= back
			}
			break
		}
	}
	_, err := io.WriteString(w.w, Text(string(text[:whole])))
	w.rest = append([]byte(nil), text[whole:]...)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}
