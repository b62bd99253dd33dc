//go:build !noasm

#include "textflag.h"
#include "go_asm.h"

// func zeroBytesAVX2(p *byte, n int) bool
//
// SI is the next step and CX the number of bytes left, a positive multiple of zeroStep. All
// bytes before SI are zero. Y0 to Y3 collect the step's bits.
TEXT ·zeroBytesAVX2(SB), NOSPLIT, $0-17
	MOVQ p+0(FP), SI
	MOVQ n+8(FP), CX

step:
	VMOVDQU (SI), Y0
	VMOVDQU 32(SI), Y1
	VMOVDQU 64(SI), Y2
	VMOVDQU 96(SI), Y3
	VPOR 128(SI), Y0, Y0
	VPOR 160(SI), Y1, Y1
	VPOR 192(SI), Y2, Y2
	VPOR 224(SI), Y3, Y3
	VPOR 256(SI), Y0, Y0
	VPOR 288(SI), Y1, Y1
	VPOR 320(SI), Y2, Y2
	VPOR 352(SI), Y3, Y3
	VPOR 384(SI), Y0, Y0
	VPOR 416(SI), Y1, Y1
	VPOR 448(SI), Y2, Y2
	VPOR 480(SI), Y3, Y3
	VPOR Y1, Y0, Y0
	VPOR Y3, Y2, Y2
	VPOR Y2, Y0, Y0
	VPTEST Y0, Y0
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
