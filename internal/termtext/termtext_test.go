package termtext_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/internal/termtext"
)

func TestName_QuotesUnprintableNames(t *testing.T) {
	for in, want := range map[string]string{
		"pc.ram":                       "pc.ram",
		"/rom@etc/acpi/tables":         "/rom@etc/acpi/tables",
		"größe 漢":                      "größe 漢",
		"":                             `""`,
		"\x1b[31mred":                  `"\x1b[31mred"`,
		"\x1b]0;title\x07":             `"\x1b]0;title\a"`,
		"two\nlines\tand\rmore":        `"two\nlines\tand\rmore"`,
		"\u009b31m":                    `"\u009b31m"`,
		"\u202egnp.exe":                `"\u202egnp.exe"`,
		"\xff":                         `"\xff"`,
		`"quoted"`:                     `"\"quoted\""`,
		"zero\u200bwidth":              `"zero\u200bwidth"`,
		"replaced \ufffd stays itself": "replaced \ufffd stays itself",
	} {
		if got := termtext.Name(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestShortName_LongNameIsCutBetweenCharacters(t *testing.T) {
	if got := termtext.ShortName("abcdé", 5); got != "abcd..." {
		t.Error(got)
	}
	if got := termtext.ShortName("abcdé", 6); got != "abcdé" {
		t.Error(got)
	}
}

func TestText_EscapesUnprintableCharacters(t *testing.T) {
	for in, want := range map[string]string{
		"a line\n\tand \"another\" \\n\n": "a line\n\tand \"another\" \\n\n",
		"\x1b[2Jgone\r\n":                 `\x1b[2Jgone\x0d` + "\n",
		"bad \xc3 byte":                   `bad \xc3 byte`,
		"\u009bm é\x7f":                   `\u009bm é\u007f`,
		"tag \U000e0041":                  `tag \udb40\udc41`,
	} {
		if got := termtext.Text(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestWriter_CharactersSplitBetweenCalls(t *testing.T) {
	const text = "é漢🜁\x1b[0m\u009b\n"
	for size := 1; size <= len(text); size++ {
		var out strings.Builder
		w := termtext.NewWriter(&out)
		for rest := text; rest != ""; {
			n, err := w.Write([]byte(rest[:min(size, len(rest))]))
			if err != nil || n != min(size, len(rest)) {
				t.Fatal(n, err)
			}
			rest = rest[n:]
		}
		if want := "é漢🜁" + `\x1b[0m\u009b` + "\n"; out.String() != want {
			t.Errorf("%d bytes a call: %q, want %q", size, out.String(), want)
		}
	}
}

func TestText_JSONKeepsItsValues(t *testing.T) {
	values := []string{"\x1b[0m \x7f", "\u009b", "\u202e\U000e0041", "a\tb\n", "é\u2028"}
	text, err := json.MarshalIndent(values, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := json.Unmarshal([]byte(termtext.Text(string(text))), &got); err != nil || !slices.Equal(got, values) {
		t.Errorf("%q, %v; want %q", got, err, values)
	}
}
