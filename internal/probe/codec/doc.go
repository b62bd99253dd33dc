// Package codec is the engine of "vmferry bench codec": it measures the page
// codec on a corpus of 4 KiB pages, one core, one page a call, as the
// migration and snapshot paths use it.
//
// All buffers are written once before a clock starts, because the page faults of the first
// access cost more than the codec. The fastest of several passes over the corpus counts,
// because other work on the machine can only make a pass slower.
package codec
