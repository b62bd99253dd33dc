// Package destination is the engine of "vmferry bench iaa --destination". It models the
// destination of a qpl migration whose pages accelerators inflate straight into guest memory,
// and shows what page faults of the devices and flushes of their TLBs cost.
//
// The driver is the real one. The machine is package iaamodel in virtual time, so equal
// options give equal results on every machine. The costs of devices and kernel are published
// figures, those of the processor are listed at [Costs] with their sources.
//
// The network, the source, and transparent huge pages are not modelled.
package destination
