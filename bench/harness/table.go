package harness

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// WriteTable writes a table in Markdown. The columns are aligned in the source too.
func WriteTable(b *bytes.Buffer, head []string, rows [][]string) {
	width := make([]int, len(head))
	for _, row := range append([][]string{head}, rows...) {
		for i, text := range row {
			width[i] = max(width[i], utf8.RuneCountInString(text))
		}
	}
	line := func(row []string) {
		for i, text := range row {
			space := strings.Repeat(" ", width[i]-utf8.RuneCountInString(text))
			if i == 0 {
				fmt.Fprintf(b, "| %s%s ", text, space)
			} else {
				fmt.Fprintf(b, "| %s%s ", space, text)
			}
		}
		b.WriteString("|\n")
	}
	line(head)
	for i, w := range width {
		if i == 0 {
			fmt.Fprintf(b, "|%s", strings.Repeat("-", w+2))
		} else {
			fmt.Fprintf(b, "|%s:", strings.Repeat("-", w+1))
		}
	}
	b.WriteString("|\n")
	for _, row := range rows {
		line(row)
	}
}
