// Package deflate compresses guest pages one at a time as raw deflate
// (RFC 1951), the form that QEMU's qpl method puts on the wire and that a
// snapshot keeps.
//
// It is for code that handles many small buffers of a known size: an Encoder
// and a Decoder keep their state between pages and allocate nothing per page.
//
// Traps: an Encoder or Decoder belongs to one goroutine at a time, and Inflate
// wants to know the exact size of the page: a stream that yields less or more
// is corrupt.
package deflate
