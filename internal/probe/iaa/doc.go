// Package iaaprobe is the engine of "vmferry bench iaa": it measures how well package
// iaa/hybrid keeps accelerators busy. It reports throughput, page faults, and the shares of
// the work that hardware and processor do, for one and several devices, with and without
// prefaulted memory.
//
// A [Stage] provides the devices and the clock of a run. [Hardware] makes stages with the
// machine's devices. The benchmark module makes stages with a model of the devices in
// virtual time.
package iaaprobe
