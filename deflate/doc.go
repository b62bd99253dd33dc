// Package deflate compresses and expands single memory pages as raw deflate
// streams (RFC 1951), one call a page.
//
// It exists because a page is small. A streaming codec pays for set-up, header
// state and buffering on every 4 KiB; this package pays for none of it: an
// [Encoder] and a [Decoder] hold all the state they need, allocate nothing per
// page, and see the whole page at once.
//
// [Fast] emits one fixed-Huffman block and is meant for the wire. [Dense]
// builds a Huffman code for each page and is meant for storage. Both fall back
// to a stored block where that is shorter. Whatever they emit is ordinary
// deflate that any inflater accepts, and no match reaches further back than
// 4,096 bytes, so that Intel's In-Memory Analytics Accelerator accepts it too.
// [Decoder.Inflate] takes any deflate stream, not only this package's own.
//
// # Traps
//
//   - An Encoder or a Decoder serves one goroutine at a time, and is large
//     (a few hundred KiB, of which a 4 KiB page touches about 40): keep one per
//     worker rather than making one per page.
//   - The stream does not say how long the page is. Inflate must be told, by
//     the length of dst, and treats any other length as corruption.
//   - Guest memory may change while it is read. The encoder copies the page
//     before looking at it, so a page written to meanwhile still yields a valid
//     stream of some mixture of old and new bytes.
//   - After an error from Inflate the contents of dst are as before the call.
//
// On amd64 the inner loops are AVX-512 assembly where the processor has it
// (Ice Lake or Zen 4 and later). Every routine has a twin in Go that is the
// reference for its behaviour and runs elsewhere, or everywhere with the build
// tag noasm; the two agree byte for byte.
package deflate
