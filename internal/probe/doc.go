// Package probe has the statistics that the probes of "vmferry bench" (packages codec,
// faults and iaa below it) and the benchmark module share.
package probe
