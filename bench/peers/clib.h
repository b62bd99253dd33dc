// One batch call per library: every function walks n pages of size bytes at
// in (or out), so that the cost of crossing from Go is paid once a pass.
//
// A compressed page i lies at packed + i*stride and is sizes[i] bytes long;
// sizes[i] == size means the page did not shrink and was copied. Inflaters
// return the number of pages that came out wrong by the library's own word.
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
