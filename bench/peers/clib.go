package main

// #cgo CFLAGS: -O3 -march=native
// #cgo LDFLAGS: -lisal -ldeflate -lz -lzstd -llz4
// #include "clib.h"
import "C"

import "unsafe"

func (b *batch) c() C.struct_batch {
	return C.struct_batch{
		pages:  (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(b.pages))),
		packed: (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(b.packed))),
		sizes:  (*C.uint32_t)(unsafe.Pointer(unsafe.SliceData(b.sizes))),
		n:      C.size_t(len(b.sizes)), size: pageSize, stride: stride,
	}
}

func cPeers() []peer {
	return []peer{
		{"isal-0", "", func(b *batch) { C.isal_pack(b.c(), 0) }, func(b *batch) int { return int(C.isal_unpack(b.c())) }},
		{"isal-1", "", func(b *batch) { C.isal_pack(b.c(), 1) }, func(b *batch) int { return int(C.isal_unpack(b.c())) }},
		{"libdeflate-1", "", func(b *batch) { C.libdeflate_pack(b.c(), 1) }, func(b *batch) int { return int(C.libdeflate_unpack(b.c())) }},
		{"zlib-1", "", func(b *batch) { C.zlib_pack(b.c(), 1) }, func(b *batch) int { return int(C.zlib_unpack(b.c())) }},
		{"zstd-1", "", func(b *batch) { C.zstd_pack(b.c(), 1) }, func(b *batch) int { return int(C.zstd_unpack(b.c())) }},
		{"lz4", "", func(b *batch) { C.lz4_pack(b.c()) }, func(b *batch) int { return int(C.lz4_unpack(b.c())) }},
	}
}

// readLoops reads all words of p the given number of times and returns their bitwise or. It
// is the upper limit for the speed of IsZero.
func readLoops(p []byte, times int) uint64 {
	return uint64(C.read_loops((*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(p))), C.size_t(len(p)), C.size_t(times)))
}
