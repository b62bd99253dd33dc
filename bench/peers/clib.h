// Each function processes a batch of n pages of size bytes in one call, so that the cost of a
// call from Go counts once a pass.
//
// Compressed page i is at packed + i*stride and has sizes[i] bytes. If sizes[i] == size, the
// page did not shrink and was copied. The unpack functions return the number of pages for
// which the library reported an error.
#ifndef VMFERRY_PEERS_H
#define VMFERRY_PEERS_H
#include <stddef.h>
#include <stdint.h>

struct batch {
	uint8_t *pages;   // n * size bytes
	uint8_t *packed;  // n * stride bytes
	uint32_t *sizes;  // n entries
	size_t n, size, stride;
};

void isal_pack(struct batch b, int level);
size_t isal_unpack(struct batch b);
void libdeflate_pack(struct batch b, int level);
size_t libdeflate_unpack(struct batch b);
void zlib_pack(struct batch b, int level);
size_t zlib_unpack(struct batch b);
void zstd_pack(struct batch b, int level);
size_t zstd_unpack(struct batch b);
void lz4_pack(struct batch b);
size_t lz4_unpack(struct batch b);
uint64_t read_loops(const uint8_t *p, size_t n, size_t times);
#endif
