//go:build !noasm

#include "textflag.h"
#include "go_asm.h"
#include "inflate_amd64.h"

#define WIDTH 32
#define STEP  shufflePatterns_step

// REPEAT has bytes 0 to 15 of the source in both halves of Y0 and bytes 16 to 31 in both
// halves of Y1, because VPSHUFB shuffles within a half. Of each byte of the result, one of
// the two has zero in place.
#define REPEAT \
	VBROADCASTI128 (R13), Y0         \
	VBROADCASTI128 16(R13), Y1       \
	CMPQ  R14, $32                   \
	CMOVQHI width-24(SP), R14        \
	SHLQ  $6, R14                    \
	VPSHUFB (R12)(R14*1), Y0, Y0     \
	VPSHUFB 32(R12)(R14*1), Y1, Y1   \
	VPOR  Y1, Y0, Y0                 \
	VMOVDQU Y0, (R8)

#define AGAIN VMOVDQU Y0, (R8)

#define MOVE \
	VMOVDQU (R13), Y0 \
	VMOVDQU Y0, (R8)

// func decodeBlockAVX2(d *Decoder, c *blockCode, patterns *shufflePatterns) status
TEXT ·decodeBlockAVX2(SB), NOSPLIT, $32-32
#include "inflateloop_amd64.h"
