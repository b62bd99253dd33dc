// Package iaaprobe is the engine of "vmferry bench iaa": it measures how well package
// iaa/hybrid keeps accelerators busy. It reports throughput, page faults, and the share
// of the work done by hardware and by the processor, for one and several devices, with
// and without prefaulted memory.
//
// The devices and the clock of a run are a [Stage]. [Hardware] makes stages of the
// machine's devices, the benchmark module of a device model in virtual time.
package iaaprobe
