//go:build !noasm

#include "textflag.h"
#include "go_asm.h"

// func zeroBytesAVX512(p *byte, n int) bool
//
// n is a positive multiple of zeroStep.
TEXT ·zeroBytesAVX512(SB), NOSPLIT, $0-17
	MOVQ p+0(FP), SI
	MOVQ n+8(FP), CX

step:
	VMOVDQU64 (SI), Z0
	VMOVDQU64 64(SI), Z1
	VMOVDQU64 128(SI), Z2
	VMOVDQU64 192(SI), Z3
	VPORQ 256(SI), Z0, Z0
	VPORQ 320(SI), Z1, Z1
	VPORQ 384(SI), Z2, Z2
	VPORQ 448(SI), Z3, Z3
	VPORQ Z1, Z0, Z0
	VPTERNLOGQ $0xfe, Z3, Z2, Z0
	VPTESTMQ Z0, Z0, K1
	KORTESTB K1, K1
	JNZ  found
	ADDQ $const_zeroStep, SI
	SUBQ $const_zeroStep, CX
	JNZ  step

	MOVB $1, ret+16(FP)
	VZEROUPPER
	RET

found:
	MOVB $0, ret+16(FP)
	VZEROUPPER
	RET
