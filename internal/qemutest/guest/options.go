package main

import (
	"fmt"
	"strconv"
	"strings"
)

// options are the sizes of the workload.
type options struct {
	fillMiB   int
	workMiB   int
	rateMiBps int
}

// parseOptions parses the words that begin with "vmferry." of a kernel command line.
func parseOptions(cmdline string) (options, error) {
	var o options
	known := map[string]*int{
		"vmferry.fill": &o.fillMiB,
		"vmferry.work": &o.workMiB,
		"vmferry.rate": &o.rateMiBps,
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
			return options{}, fmt.Errorf("option %q: want a number of MiB from 0 to 1048576", word)
		}
		*option = n
	}
	return o, nil
}
