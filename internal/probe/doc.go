// Package probe has the statistics that the probes of "vmferry bench" (its packages codec,
// faults and iaa) share with the benchmark module.
package probe
