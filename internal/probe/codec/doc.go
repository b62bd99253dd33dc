// Package codec is the engine of "vmferry bench codec": it measures the page
// codec on a corpus of 4 KiB pages, one core, one page a call, as the
// migration and snapshot paths use it.
//
// All buffers are written once before a clock starts, since the page faults of a
// first touch cost more than the codec; and of several passes over the corpus
// the fastest counts, for everything else that runs can only make one slower.
package codec
