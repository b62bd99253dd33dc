// Package harness has the code that the benchmarks share: memory and pages to migrate, a
// source and a destination in processes of their own ([RunPair]), the processor time and
// page faults of a process ([Usage]), the wait for QEMU's migration, and tables in
// Markdown.
//
// It is the only package of this module that uses the packages migration and multifd.
//
// Trap: [RunPair] and [RunAlone] start the program again. Its main function must call
// [RunSide] if the only argument is [SideArgument]. After the measurement, the checksums of
// all memory on both sides are compared; a difference is an error.
package harness
