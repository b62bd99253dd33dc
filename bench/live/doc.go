// Live measures live migration between Go programs. In the same run it measures, in turn, a
// bare copy of memory over the same number of sockets, and QEMU. "make bench-live" runs it.
// It writes docs/notes/live-results.md and the charts docs/notes/live-*.svg.
//
// Each side of a measurement is a process of its own: the program starts itself with the
// argument "side". A side reads a job and writes results, as lines of JSON. After each
// measurement, the checksums of all memory on both sides are compared; if they differ, the
// run fails.
package main
