//go:build !noasm

#include "textflag.h"
#include "go_asm.h"

// Reversing the bits of bytes, as a matrix over GF(2).
DATA reverse<>+0(SB)/8, $0x8040201008040201
GLOBL reverse<>(SB), RODATA|NOPTR, $8

// PLACE stores quadword i. It leaves up to seven bytes of nonsense behind
// itself, which the next one covers.
#define PLACE(i) \
	MOVQ (8*i)(SP), AX  \
	MOVQ (64+8*i)(SP), DX \
	MOVQ AX, (DI)(DX*1)

// func putFixedAVX512(dst *byte, tokens *token, n int, at uint64, acc uint64) (end uint64, accOut uint64)
//
// It encodes n tokens, a positive multiple of 16, from bit at of dst on. acc has the bits
// of the byte there that are filled already.
//
// Any two tokens take at least eight bits, which is why each quadword but its
// neighbour needs to know nothing of the others.
TEXT ·putFixedAVX512(SB), NOSPLIT, $128-56
	MOVQ dst+0(FP), DI
	MOVQ tokens+8(FP), SI
	MOVQ n+16(FP), R9

#define CONST(v, r) \
	MOVL $v, AX      \
	VPBROADCASTD AX, r
	CONST(0xff, Z31)
	CONST(143, Z30)
	CONST(0x30, Z29)
	CONST(8, Z28)
	CONST(1, Z27)
	CONST(31, Z26)
	CONST(0xfff, Z25)
	CONST(255, Z24)
	CONST(7, Z23)
	CONST(0xa8, Z22)
	CONST(24, Z21)
	CONST(5, Z20)
	CONST(29, Z18)
	VPBROADCASTQ reverse<>(SB), Z19
	VPTERNLOGD $0xff, Z17, Z17, Z17
	VPSRLQ $32, Z17, Z17             // low halves
	VPSRLQ $29, Z17, Z13             // 7
	VMOVDQA64 Z13, Z14               // the last lane
	VPBROADCASTQ at+24(FP), Z16
	VPBROADCASTQ acc+32(FP), Z15
	SUBQ $16, R9

loop:
	VMOVDQU32 (SI), Z0
	// Literals.
	VPCMPUD $6, Z30, Z0, K1          // above 143; matches too, but these go
	VMOVDQA32 Z29, Z2
	VPXORD Z2, Z2, K1, Z2            // 0x30 or 0
	VPADDD Z2, Z0, Z2
	VGF2P8AFFINEQB $0, Z19, Z2, Z2   // bits of each byte reversed
	VPANDD Z31, Z2, Z2
	VPADDD Z2, Z2, K1, Z2            // nine bits of which the first is a one
	VPORD Z27, Z2, K1, Z2
	VMOVDQA32 Z28, Z3
	VPADDD Z27, Z3, K1, Z3           // 8 or 9

	// Matches: the length.
	VPMOVD2M Z0, K2
	VPSRLD $16, Z0, Z4
	VPANDD Z31, Z4, Z4               // length-3
	VPLZCNTD Z4, Z5
	VPSUBD Z5, Z18, Z5               // bits in it, less 3
	VPXORD Z6, Z6, Z6
	VPMAXSD Z6, Z5, Z5               // extra bits
	VPSRLVD Z5, Z4, Z7               // top bits
	VPSLLD $2, Z5, Z8
	VPADDD Z7, Z8, Z8
	VPADDD Z27, Z8, Z8               // symbol
	VPSLLVD Z5, Z7, Z9
	VPSUBD Z9, Z4, Z9                // extra
	VPCMPEQD Z24, Z4, K3             // 258 is on its own
	VMOVDQA32 Z18, K3, Z8
	VPXORD Z9, Z9, K3, Z9
	VPXORD Z5, Z5, K3, Z5
	VPCMPUD $5, Z21, Z8, K3          // symbols of eight bits
	VMOVDQA32 Z23, Z10
	VPADDD Z27, Z10, K3, Z10         // code bits
	VPADDD Z8, Z8, Z11               // seven bits in the top of the byte
	VPADDD Z22, Z8, K3, Z11
	VGF2P8AFFINEQB $0, Z19, Z11, Z11
	VPANDD Z31, Z11, Z11
	VPSLLVD Z10, Z9, Z9
	VPORD Z9, Z11, Z11
	VPADDD Z5, Z10, Z10

	// The distance.
	VPANDD Z25, Z0, Z4               // distance-1
	VPLZCNTD Z4, Z5
	VPSUBD Z5, Z18, Z5
	VPADDD Z27, Z5, Z5               // bits in it, less 2
	VPMAXSD Z6, Z5, Z5               // extra bits
	VPSRLVD Z5, Z4, Z7
	VPADDD Z5, Z5, Z8
	VPADDD Z7, Z8, Z8                // symbol
	VPSLLVD Z5, Z7, Z9
	VPSUBD Z9, Z4, Z9                // extra
	VPSLLD $3, Z8, Z8
	VGF2P8AFFINEQB $0, Z19, Z8, Z8
	VPSLLD $5, Z9, Z9
	VPORD Z9, Z8, Z8
	VPSLLVD Z10, Z8, Z8
	VPORD Z8, Z11, K2, Z2
	VPADDD Z5, Z10, Z10
	VPADDD Z20, Z10, K2, Z3

	// Two tokens to a quadword: bits in Z2, their number in Z3.
	VPSRLQ $32, Z3, Z4
	VPSRLQ $32, Z2, Z5
	VPANDQ Z17, Z3, Z3
	VPANDQ Z17, Z2, Z2
	VPSLLVQ Z3, Z5, Z5
	VPORQ  Z5, Z2, Z2
	VPADDQ Z4, Z3, Z3

	// Where each quadword ends, in bits, by a prefix sum.
	VALIGNQ $7, Z6, Z3, Z4
	VPADDQ Z3, Z4, Z4
	VALIGNQ $6, Z6, Z4, Z5
	VPADDQ Z5, Z4, Z4
	VALIGNQ $4, Z6, Z4, Z5
	VPADDQ Z5, Z4, Z4
	VPADDQ Z16, Z4, Z4               // end
	VPSUBQ Z3, Z4, Z5                // start
	VPERMQ Z4, Z14, Z16
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
	VMOVDQU64 Z2, 0(SP)
	VMOVDQU64 Z5, 64(SP)
	PLACE(0)
	PLACE(1)
	PLACE(2)
	PLACE(3)
	PLACE(4)
	PLACE(5)
	PLACE(6)
	PLACE(7)
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
