/*
 * oracle: a filter around Intel's libqpl, in software, for interoperability tests.
 *
 * Requests come on stdin and answers go to stdout until stdin ends. Numbers are
 * little-endian.
 *
 *   request:  u8 operation, u32 size, data
 *   answer:   u32 qpl_status (0 is success), u32 size, data
 *
 * Operations: 'f' compress with fixed tables, 'd' compress with dynamic tables,
 * 'i' inflate. Streams are raw deflate.
 */
#include <qpl/qpl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_SIZE = 1 << 16 };

static uint8_t in[MAX_SIZE], out[2 * MAX_SIZE];

static int read_exactly(void *buf, size_t n) { return fread(buf, 1, n, stdin) == n; }

static void put(const void *buf, size_t n)
{
	if (fwrite(buf, 1, n, stdout) != n) {
		perror("oracle: write");
		exit(1);
	}
}

static void run(qpl_job *job, uint8_t op, uint32_t size)
{
	job->op = op == 'i' ? qpl_op_decompress : qpl_op_compress;
	job->level = qpl_default_level;
	job->huffman_table = NULL;
	job->flags = QPL_FLAG_FIRST | QPL_FLAG_LAST;
	if (op != 'i')
		job->flags |= QPL_FLAG_OMIT_VERIFY;
	if (op == 'd')
		job->flags |= QPL_FLAG_DYNAMIC_HUFFMAN;
	job->next_in_ptr = in;
	job->available_in = size;
	job->next_out_ptr = out;
	job->available_out = sizeof out;

	uint32_t status = (uint32_t)qpl_execute_job(job);
	uint32_t produced = status == QPL_STS_OK ? job->total_out : 0;
	put(&status, sizeof status);
	put(&produced, sizeof produced);
	put(out, produced);
	fflush(stdout);
}

int main(void)
{
	uint32_t job_size, size;
	uint8_t op;

	if (qpl_get_job_size(qpl_path_software, &job_size) != QPL_STS_OK) {
		fprintf(stderr, "oracle: qpl_get_job_size failed\n");
		return 1;
	}
	qpl_job *job = malloc(job_size);
	if (job == NULL || qpl_init_job(qpl_path_software, job) != QPL_STS_OK) {
		fprintf(stderr, "oracle: qpl_init_job failed\n");
		return 1;
	}
	while (read_exactly(&op, 1)) {
		if (!read_exactly(&size, sizeof size) || size > MAX_SIZE || !read_exactly(in, size)) {
			fprintf(stderr, "oracle: bad request\n");
			return 1;
		}
		run(job, op, size);
	}
	qpl_fini_job(job);
	free(job);
	return 0;
}
