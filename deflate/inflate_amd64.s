//go:build !noasm

#include "textflag.h"
#include "go_asm.h"
#include "inflate_amd64.h"

#define WIDTH 64
#define STEP  copyPatterns_step

// REPEAT permutes the 64 bytes in Z0 by the distance's row of indices.
#define REPEAT \
	VMOVDQU64 (R13), Z0        \
	CMPQ  R14, $64             \
	CMOVQHI width-24(SP), R14  \
	SHLQ  $6, R14              \
	VMOVDQU64 (R12)(R14*1), Z1 \
	VPERMB Z0, Z1, Z0          \
	VMOVDQU64 Z0, (R8)

#define AGAIN VMOVDQU64 Z0, (R8)

#define MOVE \
	VMOVDQU64 (R13), Z0 \
	VMOVDQU64 Z0, (R8)

// func decodeBlockVBMI2(d *Decoder, c *blockCode, patterns *copyPatterns) status
//
// It needs VBMI for REPEAT.
TEXT ·decodeBlockVBMI2(SB), NOSPLIT, $32-32
#include "inflateloop_amd64.h"
