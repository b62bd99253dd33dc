#include "clib.h"

#include <stdlib.h>
#include <string.h>

#include <isa-l.h>
#include <libdeflate.h>
#include <lz4.h>
#include <zlib.h>
#include <zstd.h>

// store_page records the size of a packed page, or copies the page if it did not shrink.
static void store_page(struct batch *b, size_t i, size_t got)
{
	if (got == 0 || got >= b->size) {
		memcpy(b->packed + i * b->stride, b->pages + i * b->size, b->size);
		got = b->size;
	}
	b->sizes[i] = (uint32_t)got;
}

// raw reports whether page i is raw, and copies it if so.
static int raw(struct batch *b, size_t i)
{
	if (b->sizes[i] != b->size)
		return 0;
	memcpy(b->pages + i * b->size, b->packed + i * b->stride, b->size);
	return 1;
}

void isal_pack(struct batch b, int level)
{
	static uint8_t work[ISAL_DEF_LVL1_DEFAULT];
	static struct isal_zstream s;

	isal_deflate_stateless_init(&s);
	for (size_t i = 0; i < b.n; i++) {
		isal_deflate_reset(&s);
		s.level = level;
		s.level_buf = level ? work : NULL;
		s.level_buf_size = level ? sizeof work : 0;
		s.end_of_stream = 1;
		s.flush = NO_FLUSH;
		s.next_in = b.pages + i * b.size;
		s.avail_in = (uint32_t)b.size;
		s.next_out = b.packed + i * b.stride;
		s.avail_out = (uint32_t)b.size - 1;
		int r = isal_deflate_stateless(&s);
		store_page(&b, i, r == COMP_OK ? s.total_out : 0);
	}
}

size_t isal_unpack(struct batch b)
{
	static struct inflate_state s;
	size_t bad = 0;

	for (size_t i = 0; i < b.n; i++) {
		if (raw(&b, i))
			continue;
		isal_inflate_init(&s);
		s.next_in = b.packed + i * b.stride;
		s.avail_in = b.sizes[i];
		s.next_out = b.pages + i * b.size;
		s.avail_out = (uint32_t)b.size;
		int r = isal_inflate_stateless(&s);
		bad += r != ISAL_DECOMP_OK || s.avail_out != 0;
	}
	return bad;
}

void libdeflate_pack(struct batch b, int level)
{
	struct libdeflate_compressor *c = libdeflate_alloc_compressor(level);

	for (size_t i = 0; i < b.n; i++)
		store_page(&b, i, libdeflate_deflate_compress(c, b.pages + i * b.size, b.size,
							  b.packed + i * b.stride, b.size - 1));
	libdeflate_free_compressor(c);
}

size_t libdeflate_unpack(struct batch b)
{
	struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
	size_t bad = 0;

	for (size_t i = 0; i < b.n; i++)
		if (!raw(&b, i))
			bad += libdeflate_deflate_decompress(d, b.packed + i * b.stride, b.sizes[i],
							     b.pages + i * b.size, b.size,
							     NULL) != LIBDEFLATE_SUCCESS;
	libdeflate_free_decompressor(d);
	return bad;
}

void zlib_pack(struct batch b, int level)
{
	z_stream z = {0};

	deflateInit2(&z, level, Z_DEFLATED, -12, 8, Z_DEFAULT_STRATEGY);
	for (size_t i = 0; i < b.n; i++) {
		deflateReset(&z);
		z.next_in = b.pages + i * b.size;
		z.avail_in = (uInt)b.size;
		z.next_out = b.packed + i * b.stride;
		z.avail_out = (uInt)b.size - 1;
		store_page(&b, i, deflate(&z, Z_FINISH) == Z_STREAM_END ? z.total_out : 0);
	}
	deflateEnd(&z);
}

size_t zlib_unpack(struct batch b)
{
	z_stream z = {0};
	size_t bad = 0;

	inflateInit2(&z, -15);
	for (size_t i = 0; i < b.n; i++) {
		if (raw(&b, i))
			continue;
		inflateReset(&z);
		z.next_in = b.packed + i * b.stride;
		z.avail_in = b.sizes[i];
		z.next_out = b.pages + i * b.size;
		z.avail_out = (uInt)b.size;
		bad += inflate(&z, Z_FINISH) != Z_STREAM_END || z.avail_out != 0;
	}
	inflateEnd(&z);
	return bad;
}

void zstd_pack(struct batch b, int level)
{
	ZSTD_CCtx *c = ZSTD_createCCtx();

	for (size_t i = 0; i < b.n; i++) {
		size_t r = ZSTD_compressCCtx(c, b.packed + i * b.stride, b.size - 1,
					     b.pages + i * b.size, b.size, level);
		store_page(&b, i, ZSTD_isError(r) ? 0 : r);
	}
	ZSTD_freeCCtx(c);
}

size_t zstd_unpack(struct batch b)
{
	ZSTD_DCtx *d = ZSTD_createDCtx();
	size_t bad = 0;

	for (size_t i = 0; i < b.n; i++)
		if (!raw(&b, i))
			bad += ZSTD_decompressDCtx(d, b.pages + i * b.size, b.size,
						   b.packed + i * b.stride, b.sizes[i]) != b.size;
	ZSTD_freeDCtx(d);
	return bad;
}

void lz4_pack(struct batch b)
{
	static LZ4_stream_t state;

	LZ4_initStream(&state, sizeof state);
	for (size_t i = 0; i < b.n; i++) {
		int r = LZ4_compress_fast_extState(&state, (char *)b.pages + i * b.size,
						   (char *)b.packed + i * b.stride,
						   (int)b.size, (int)b.size - 1, 1);
		store_page(&b, i, r > 0 ? (size_t)r : 0);
	}
}

size_t lz4_unpack(struct batch b)
{
	size_t bad = 0;

	for (size_t i = 0; i < b.n; i++)
		if (!raw(&b, i))
			bad += LZ4_decompress_safe((char *)b.packed + i * b.stride,
						   (char *)b.pages + i * b.size,
						   (int)b.sizes[i], (int)b.size) != (int)b.size;
	return bad;
}

// read_loop is the limit that memory sets: a loop that reads every word, which the compiler
// vectorises.
__attribute__((noinline)) static uint64_t read_loop(const uint8_t *p, size_t n)
{
	uint64_t acc = 0, w;

	for (size_t i = 0; i + 8 <= n; i += 8) {
		memcpy(&w, p + i, 8);
		acc |= w;
	}
	return acc;
}

uint64_t read_loops(const uint8_t *p, size_t n, size_t times)
{
	uint64_t acc = 0;

	for (size_t i = 0; i < times; i++) {
		__asm__ volatile("" ::: "memory"); // read memory again each time
		acc |= read_loop(p, n);
	}
	return acc;
}
