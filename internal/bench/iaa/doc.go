// Package iaabench measures how well package iaa/hybrid keeps accelerators busy:
// throughput, page faults, and the share of the work done by hardware and by the
// processor, for one and several devices, with and without prefaulted memory.
//
// Without hardware it measures the driver on the device model, in virtual time:
// devices take the published times, software takes what the codec was measured to
// take on this machine, and the driver's own work what it was measured to take
// against a device that needs no time at all. With hardware, the same runs are
// measured by the clock.
package iaabench
