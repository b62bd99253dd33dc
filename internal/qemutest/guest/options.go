package main

import (
	"fmt"
	"strconv"
	"strings"
)

// options are the sizes and the kind of the workload.
type options struct {
	fillMiB   int
	workMiB   int
	rateMiBps int
	part      int // percent of the rewritten pages of which only a part changes
}

// parseOptions parses the words that begin with "vmferry." of a kernel command line.
func parseOptions(cmdline string) (options, error) {
	var o options
	known := map[string]*int{
		"vmferry.fill": &o.fillMiB,
		"vmferry.work": &o.workMiB,
		"vmferry.rate": &o.rateMiBps,
		"vmferry.part": &o.part,
	}
	for word := range strings.FieldsSeq(cmdline) {
		if !strings.HasPrefix(word, "vmferry.") {
			continue
		}
		name, value, _ := strings.Cut(word, "=")
		option := known[name]
		if option == nil {
			return options{}, fmt.Errorf("unknown option %q on the kernel's command line", word)
		}
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 || n > 1<<20 {
			return options{}, fmt.Errorf("option %q: want a number from 0 to 1048576", word)
		}
		*option = n
	}
	if o.part > 100 {
		return options{}, fmt.Errorf("option vmferry.part=%d: want a percentage from 0 to 100", o.part)
	}
	return o, nil
}
