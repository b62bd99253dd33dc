// Measures the software path of libqpl as peers measures the other libraries, and prints one
// JSON object for each mode: qplpeer CORPUS PASSES PIECE.
#include <qpl/qpl.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PAGE = 4096, STRIDE = PAGE + 64 };

static qpl_job *job;
static uint8_t *pages, *packed, *unpacked;
static uint32_t *sizes;
static size_t count;

static double cpu_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	fprintf(stderr, "qplpeer: %s\n", what);
	exit(1);
}

static void *need(void *p)
{
	if (!p)
		fail("out of memory");
	return p;
}

static void pack(size_t from, size_t to, int dynamic)
{
	for (size_t i = from; i < to; i++) {
		job->op = qpl_op_compress;
		job->level = qpl_default_level;
		job->flags = QPL_FLAG_FIRST | QPL_FLAG_LAST | QPL_FLAG_OMIT_VERIFY |
			     (dynamic ? QPL_FLAG_DYNAMIC_HUFFMAN : 0);
		job->next_in_ptr = pages + i * PAGE;
		job->available_in = PAGE;
		job->next_out_ptr = packed + i * STRIDE;
		job->available_out = PAGE - 1;
		if (qpl_execute_job(job) == QPL_STS_OK && job->total_out < PAGE) {
			sizes[i] = job->total_out;
		} else {
			memcpy(packed + i * STRIDE, pages + i * PAGE, PAGE);
			sizes[i] = PAGE;
		}
	}
}

static void unpack(size_t from, size_t to)
{
	for (size_t i = from; i < to; i++) {
		if (sizes[i] == PAGE) {
			memcpy(unpacked + i * PAGE, packed + i * STRIDE, PAGE);
			continue;
		}
		job->op = qpl_op_decompress;
		job->flags = QPL_FLAG_FIRST | QPL_FLAG_LAST;
		job->next_in_ptr = packed + i * STRIDE;
		job->available_in = sizes[i];
		job->next_out_ptr = unpacked + i * PAGE;
		job->available_out = PAGE;
		if (qpl_execute_job(job) != QPL_STS_OK || job->total_out != PAGE)
			fail("a page does not unpack");
	}
}

static void measure(int dynamic, int passes, size_t piece)
{
	size_t pieces = (count + piece - 1) / piece, total = 0, raw = 0;
	double *best[2] = { need(calloc(pieces, sizeof(double))), need(calloc(pieces, sizeof(double))) };
	double sum[2] = { 0, 0 };

	for (int p = 0; p < passes; p++) {
		for (int way = 0; way < 2; way++) {
			for (size_t k = 0; k < pieces; k++) {
				size_t from = k * piece, to = from + piece < count ? from + piece : count;
				double t = cpu_time();

				if (way == 0)
					pack(from, to, dynamic);
				else
					unpack(from, to);
				t = cpu_time() - t;
				if (p == 0 || t < best[way][k])
					best[way][k] = t;
			}
		}
	}
	if (memcmp(pages, unpacked, count * PAGE) != 0)
		fail("pages come back changed");
	for (size_t i = 0; i < count; i++) {
		total += sizes[i];
		raw += sizes[i] == PAGE;
	}
	for (size_t k = 0; k < pieces; k++)
		for (int way = 0; way < 2; way++)
			sum[way] += best[way][k];
	printf("{\"codec\":\"qpl-%s\",\"compress_mbps\":%.1f,\"inflate_mbps\":%.1f,\"ratio\":%.4f,\"raw_pages\":%zu}\n",
	       dynamic ? "dynamic" : "fixed", count * PAGE / 1e6 / sum[0], count * PAGE / 1e6 / sum[1],
	       (double)(count * PAGE) / total, raw);
}

int main(int argc, char **argv)
{
	uint32_t size = 0;
	FILE *f;
	long n;

	if (argc != 4)
		fail("usage: qplpeer CORPUS PASSES PIECE");
	f = fopen(argv[1], "rb");
	if (!f || fseek(f, 0, SEEK_END) != 0 || (n = ftell(f)) < PAGE)
		fail("cannot read the corpus");
	rewind(f);
	count = n / PAGE;
	pages = need(malloc(count * PAGE));
	unpacked = need(malloc(count * PAGE));
	packed = need(malloc(count * STRIDE));
	sizes = need(malloc(count * sizeof *sizes));
	if (fread(pages, PAGE, count, f) != count)
		fail("cannot read the corpus");
	memset(unpacked, 1, count * PAGE);
	memset(packed, 1, count * STRIDE);
	memset(sizes, 1, count * sizeof *sizes);

	if (qpl_get_job_size(qpl_path_software, &size) != QPL_STS_OK)
		fail("qpl_get_job_size");
	job = need(malloc(size));
	if (qpl_init_job(qpl_path_software, job) != QPL_STS_OK)
		fail("qpl_init_job");
	measure(0, atoi(argv[2]), atoi(argv[3]));
	measure(1, atoi(argv[2]), atoi(argv[3]));
	qpl_fini_job(job);
	return 0;
}
