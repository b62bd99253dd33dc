// Live measures live migration between Go programs, beside what limits it (a
// bare copy of memory over as many sockets) and beside QEMU, in turn, in one
// run. It is "make bench-live", and writes docs/live-results.md and the charts
// docs/live-*.svg.
//
// Each side of a measurement is a process of its own: the program runs itself
// with the argument "side". A side reads a job and writes reports, lines of JSON.
// What a destination got is compared with what the source had, by a checksum of
// all memory after the clocks have stopped; if they differ, the run fails.
package main
