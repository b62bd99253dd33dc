// Package deflate compresses and expands single memory pages as raw deflate streams
// (RFC 1951), one call for each page.
//
// It exists because a page is small: for every 4 KiB, a streaming codec spends time on
// set-up, header state and buffering. This package does not: an [Encoder] and a
// [Decoder] hold all their state, allocate nothing for a page, and have the whole page
// at once.
//
// [Fast] emits one fixed-Huffman block and is meant for the wire. [Dense] builds a
// Huffman code for each page and is meant for storage. Both use a stored block if that
// is shorter. Every inflater accepts their streams. No match reaches back further than
// 4,096 bytes, so that Intel's In-Memory Analytics Accelerator accepts them too.
// [Decoder.Inflate] takes any deflate stream, not only this package's own.
//
// # Traps
//
//   - An Encoder or a Decoder is for use by one goroutine at a time. It is large
//     (a few hundred KiB, of which a 4 KiB page touches about 40): keep one for
//     each worker, not for each page.
//   - A stream does not contain the length of its page. The length of dst gives
//     it to Inflate, which treats any other length as corruption.
//   - Guest memory may change while it is read. The encoder copies the page
//     first, so that a page that changes meanwhile still gives a valid stream,
//     of a mixture of old and new bytes.
//   - After an error of Inflate the content of dst is as before the call.
//
// # Tiers
//
// The inner loops exist in several tiers: sets of routines for processors with certain
// instructions. The best one that the processor has is in use; [Tier] says which one. The
// environment variable VMFERRY_DEFLATE and [UseTier] choose another one. The table is the
// variable tiers in tiers_amd64.go.
//
//	vbmi2   amd64 with AVX-512 VBMI2 and GFNI (Ice Lake, Zen 4 and later)
//	avx512  amd64 with AVX-512 (Skylake-SP, Cascade Lake)
//	avx2    amd64 with AVX2 and BMI2 (Haswell, Zen 1 and later)
//	go      every processor, and every build with the tag noasm
//
// A page can give another stream in another tier. Every stream inflates in every tier, and
// the sizes differ by less than 1 % over the pages of a machine.
package deflate
