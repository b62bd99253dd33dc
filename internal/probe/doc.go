// Package probe has what the probes of "vmferry bench" (its packages codec, faults and iaa)
// share with the benchmark module: statistics, and the names of the processor and the kernel.
package probe
