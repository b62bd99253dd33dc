//go:build !noasm

#include "textflag.h"
#include "go_asm.h"
#include "tokens_amd64.h"

// Reversing the bits of bytes, as a matrix over GF(2).
DATA reverse<>+0(SB)/8, $0x8040201008040201
GLOBL reverse<>(SB), RODATA|NOPTR, $8

// func putFixedAVX512(dst *byte, tokens *token, n int, at, acc uint64) (end, accOut uint64)
//
// It encodes n tokens, a positive multiple of 16, from bit at of dst on. acc
// has the bits of the byte there that are filled already.
//
// Any two tokens take at least eight bits, which is why what each quadword
// leaves to the next depends on no other.
TEXT ·putFixedAVX512(SB), NOSPLIT, $128-56
	MOVQ dst+0(FP), DI
	MOVQ tokens+8(FP), SI
	MOVQ n+16(FP), R9
	TOKEN_CONSTS
	CONST(143, Z30)
	CONST(0x30, Z29)
	CONST(8, Z28)
	CONST(5, Z20)
	CONST(7, Z23)
	CONST(0xa8, Z22)
	CONST(24, Z21)
	VPBROADCASTQ reverse<>(SB), Z19
	VPBROADCASTQ at+24(FP), Z16
	VPBROADCASTQ acc+32(FP), Z15
	SUBQ $16, R9

loop:
	VMOVDQU32 (SI), Z0

	// Literals: bits in Z2, their number in Z3.
	VPCMPUD $6, Z30, Z0, K1          // from 144 on; matches do not matter
	VMOVDQA32 Z29, Z2
	VMOVDQA32 Z6, K1, Z2             // 0x30 or 0
	VPADDD Z2, Z0, Z2
	VGF2P8AFFINEQB $0, Z19, Z2, Z2
	VPANDD Z31, Z2, Z2
	VPADDD Z2, Z2, K1, Z2            // nine bits, the first of them a one
	VPORD  Z27, Z2, K1, Z2
	VMOVDQA32 Z28, Z3
	VPADDD Z27, Z3, K1, Z3

	// Matches: bits in Z7, their number in Z1.
	VPMOVD2M Z0, K2
	SPLIT_LENGTH
	VPCMPUD $5, Z21, Z8, K3          // symbols of eight bits
	VMOVDQA32 Z23, Z1
	VPADDD Z27, Z1, K3, Z1
	VPADDD Z8, Z8, Z7                // seven bits at the top of a byte
	VPADDD Z22, Z8, K3, Z7
	VGF2P8AFFINEQB $0, Z19, Z7, Z7
	VPANDD Z31, Z7, Z8
	VPSLLVD Z1, Z9, Z9
	VPORD  Z9, Z8, Z8
	VPADDD Z5, Z1, Z1
	SPLIT_DISTANCE
	VPSLLD $3, Z10, Z10              // five bits at the top of a byte
	VGF2P8AFFINEQB $0, Z19, Z10, Z10
	VPSLLD $5, Z11, Z11
	VPORD  Z11, Z10, Z10
	VPSLLVD Z1, Z10, Z10
	VPORD  Z10, Z8, K2, Z2
	VPADDD Z12, Z1, Z1
	VPADDD Z20, Z1, K2, Z3

	// Two tokens to a quadword.
	VPSRLQ $32, Z3, Z4
	VPSRLQ $32, Z2, Z5
	VPANDQ Z17, Z3, Z3
	VPANDQ Z17, Z2, Z2
	VPSLLVQ Z3, Z5, Z5
	VPORQ  Z5, Z2, Z2
	VPADDQ Z4, Z3, Z3
	ENDS
	VPANDQ Z13, Z5, Z7
	VPSLLVQ Z7, Z2, Z2               // moved to its place in its first byte
	VPSRLQ $3, Z5, Z5                // the first byte
	VPSRLQ $3, Z4, Z4                // the next one's
	VPSUBQ Z5, Z4, Z4
	VPSLLQ $3, Z4, Z4
	VPSRLVQ Z4, Z2, Z4               // what belongs into that byte
	VALIGNQ $7, Z15, Z4, Z7
	VMOVDQA64 Z4, Z15
	VPORQ  Z7, Z2, Z2
	PLACE8
	ADDQ $64, SI
	SUBQ $16, R9
	JGE  loop

	VMOVQ X16, AX
	MOVQ AX, end+40(FP)
	VMOVDQU64 Z15, 0(SP)
	MOVQ 56(SP), AX
	MOVQ AX, accOut+48(FP)
	VZEROUPPER
	RET
