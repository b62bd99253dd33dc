// Package harness is what the benchmarks share: pages and memory to migrate, a source
// and a destination in processes of their own ([RunPair]), what a process takes of the
// machine ([Usage]), the wait for QEMU's migration, and tables in Markdown.
//
// It is the only package of this module that uses the packages migration and multifd.
//
// A program that calls [RunPair] or [RunAlone] starts itself again: its main function
// has to call [RunSide] where the only argument is [SideArgument]. What a destination
// got is compared with what the source had, by a checksum of all memory after the
// clocks have stopped; a difference is an error.
package harness
