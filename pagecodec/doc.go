// Package pagecodec deflates and inflates batches of guest pages, each page as
// one raw deflate stream, in software or on Intel's In-Memory Analytics
// Accelerator. The wire (package multifd) and the store (package snapshot) are
// handed an [Accelerator] and take an [Encoder] or a [Decoder] from it for each
// of their goroutines.
//
// A nil [Accelerator] is software, and so is one without a usable device unless
// its policy is [Require]. [deflate.Fast] and [deflate.Dense] are the only names
// for how hard a page is compressed; this package chooses the device's Huffman
// code for them.
//
// # Traps
//
//   - An Encoder or a Decoder serves one goroutine. It is large: keep one for
//     each channel or lane, and close it.
//   - Pages, streams and buffers of a batch are in use from Begin until the batch
//     is finished, those of an Encoder until it is released. Only the slices of
//     pages that a Decoder was given may be reused as soon as Begin returns.
//   - A page may change while an Encoder reads it. Its stream then holds a mixture
//     of old and new bytes.
//   - After an error that wraps [iaa.ErrUndrained] a device may still write to the
//     pages of the batch. Their memory must not be handed to a guest.
//   - An Accelerator is closed after its encoders and decoders.
package pagecodec
