// Package pagecodec deflates and inflates batches of guest pages, each page as
// one raw deflate stream, in software or on Intel's In-Memory Analytics
// Accelerator. The wire (package multifd) and the store (package snapshot) take
// an [Encoder] or a [Decoder] from an [Accelerator] for each of their goroutines.
//
// A nil [Accelerator] uses software. So does an Accelerator without a usable
// device, unless its policy is [Require]. The compression modes are
// [deflate.Fast] and [deflate.Dense]; this package selects the device's Huffman
// code for each.
//
// # Traps
//
//   - An Encoder or a Decoder serves one goroutine. It is large: keep one for
//     each channel or lane, and close it.
//   - A Decoder uses the pages, streams and buffers of a batch from Begin until
//     the batch is finished, and an Encoder until the batch is released. The
//     caller may reuse the slices lengths and pages of a Decoder's batch as soon
//     as Begin returns.
//   - A page may change while an Encoder reads it. Its stream then holds a mixture
//     of old and new bytes.
//   - After an error that wraps [iaa.ErrUndrained] a device may still write to the
//     pages of the batch. Their memory must not be handed to a guest.
//   - An Accelerator is closed after its encoders and decoders.
package pagecodec
