//go:build !noasm

#include "textflag.h"
#include "go_asm.h"
#include "tokens_amd64.h"

// COUNT counts the symbol of lane i in one of four tables, so that a symbol that
// repeats need not wait for its last count to be stored.
#define COUNT(i) \
	MOVWLZX (2*i)(SP), AX             \
	INCL (1152*(i&3))(DI)(AX*4)

#define SUM(i) \
	VMOVDQU32 (64*i)(DI), Z0          \
	VPADDD (1152+64*i)(DI), Z0, Z0    \
	VPADDD (2*1152+64*i)(DI), Z0, Z0  \
	VPADDD (3*1152+64*i)(DI), Z0, Z0  \
	VMOVDQU32 Z0, (64*i)(CX)

// func countTokensAVX512(litLen *[litLenCodes]uint32, c *counters, tokens *token, n int) (matches int)
//
// It counts the literal and length symbols of n tokens, a positive multiple of
// 16, and lists the distance symbols.
//
// When the loop begins, SI is at the next 16 tokens and R9 is the number of tokens from there
// on. The four tables at DI, of 288 counters each, have the symbols of all tokens before SI
// between them. R8 is behind their distance symbols. 0(SP) has the 16 symbols of this turn, in words. Z30 is 256.
TEXT ·countTokensAVX512(SB), NOSPLIT, $64-40
	MOVQ c+8(FP), DI
	LEAQ counters_distances(DI), R8
	MOVQ tokens+16(FP), SI
	MOVQ n+24(FP), R9
	TOKEN_CONSTS
	CONST(256, Z30)
	VPXORQ Z29, Z29, Z29             // zeros
	MOVQ DI, AX
	MOVL $9, CX
clear:
	VMOVDQU64 Z29, (AX)
	VMOVDQU64 Z29, 64(AX)
	VMOVDQU64 Z29, 128(AX)
	VMOVDQU64 Z29, 192(AX)
	VMOVDQU64 Z29, 256(AX)
	VMOVDQU64 Z29, 320(AX)
	VMOVDQU64 Z29, 384(AX)
	VMOVDQU64 Z29, 448(AX)
	ADDQ $512, AX
	SUBL $1, CX
	JNZ  clear

loop:
	VMOVDQU32 (SI), Z0
	VPMOVD2M Z0, K2
	SPLIT_LENGTH
	VPADDD Z8, Z30, K2, Z0
	VPMOVDW Z0, Y1
	VMOVDQU Y1, 0(SP)
	VMOVDQU32 (SI), Z0
	SPLIT_DISTANCE
	VPCOMPRESSD.Z Z10, K2, Z10
	VMOVDQU32 Z10, (R8)
	KMOVW K2, AX
	POPCNTL AX, AX
	LEAQ (R8)(AX*4), R8
	COUNT(0)
	COUNT(1)
	COUNT(2)
	COUNT(3)
	COUNT(4)
	COUNT(5)
	COUNT(6)
	COUNT(7)
	COUNT(8)
	COUNT(9)
	COUNT(10)
	COUNT(11)
	COUNT(12)
	COUNT(13)
	COUNT(14)
	COUNT(15)
	ADDQ $64, SI
	SUBQ $16, R9
	JGT  loop

	MOVQ litLen+0(FP), CX
	SUM(0)
	SUM(1)
	SUM(2)
	SUM(3)
	SUM(4)
	SUM(5)
	SUM(6)
	SUM(7)
	SUM(8)
	SUM(9)
	SUM(10)
	SUM(11)
	SUM(12)
	SUM(13)
	SUM(14)
	SUM(15)
	SUM(16)
	SUM(17)
	LEAQ counters_distances(DI), AX
	SUBQ AX, R8
	SHRQ $2, R8
	MOVQ R8, matches+32(FP)
	VZEROUPPER
	RET

// CARRY lets what is left of the quadwords n lanes before each flow into it. Z5
// has the byte that each starts in.
#define CARRY(n) \
	VALIGNQ $(8-n), Z6, Z2, Z7     \
	VALIGNQ $(8-n), Z6, Z5, Z8     \
	VPSUBQ Z8, Z5, Z8              \
	VPSLLQ $3, Z8, Z8              \
	VPSRLVQ Z8, Z7, Z7             \
	VPORQ  Z7, Z2, Z2

// func writeTokensAVX512(dst *byte, tokens *token, n int, at, acc uint64, codes *tokenCodes) (left int, end, accOut uint64)
//
// It encodes n tokens, a positive multiple of 16, from bit at of dst on. acc has the bits of
// the byte there that are filled already. It stops before 16 tokens of which
// two neighbours together take more than 57 bits, and says how many are left.
//
// When the loop begins, SI is at the next 16 tokens, R9 is the number of tokens from there on,
// and Z16 has in each quadword the bit of dst where they begin. Z15 has in each quadword the
// last bits before that one, from the byte in Z20 on, so that it may be that all of a quadword
// flows into the next turn's. DI is dst, R12 the buffer, R10 the codes. The codes of all
// symbols are in registers: Z19, Z21, Z22, Z23 and four more in memory for literals, Z26 for
// lengths, Z30 for distances. Z29 selects the bits of a code, Z28 is 57 by quadwords.
TEXT ·writeTokensAVX512(SB), NOSPLIT, $192-72
	MOVQ dst+0(FP), DI
	MOVQ tokens+8(FP), SI
	MOVQ n+16(FP), R9
	MOVQ codes+40(FP), R10
	BUFFER
	TOKEN_CONSTS
	CONST(2047, Z29)
	CONST(57, Z28)
	VPANDQ Z17, Z28, Z28
	VMOVDQU64 0(R10), Z19
	VMOVDQU64 128(R10), Z21
	VMOVDQU64 256(R10), Z22
	VMOVDQU64 384(R10), Z23
	VMOVDQU64 512(R10), Z26
	VMOVDQU64 576(R10), Z30
	VPBROADCASTQ at+24(FP), Z16
	VPBROADCASTQ acc+32(FP), Z15     // the quadword before
	VPSRLQ $3, Z16, Z20              // and the byte it starts in

loop:
	VMOVDQU32 (SI), Z0
	// Codes of literals: looked up by six bits, chosen by the other two.
	VPSLLW $8, Z0, Z1
	VPMOVW2M Z1, K4
	VPADDW Z1, Z1, Z1
	VPMOVW2M Z1, K5
	VMOVDQA64 Z0, Z2
	VMOVDQA64 Z0, Z3
	VMOVDQA64 Z0, Z4
	VMOVDQA64 Z0, Z1
	VPERMI2W 64(R10), Z19, Z2
	VPERMI2W 192(R10), Z21, Z3
	VPERMI2W 320(R10), Z22, Z4
	VPERMI2W 448(R10), Z23, Z1
	VMOVDQU16 Z3, K5, Z2
	VMOVDQU16 Z1, K5, Z4
	VMOVDQU16 Z4, K4, Z2

	VPMOVD2M Z0, K2
	SPLIT_LENGTH
	VPERMW Z26, Z8, Z4
	VMOVDQA32 Z4, K2, Z2
	SPLIT_DISTANCE
	VPERMW Z30, Z10, Z10

	// Bits of the length in Z2, their number in Z3; for the distance Z10 and Z12.
	VPSLLD $16, Z2, Z3
	VPSRLD $(16+const_codeLimit), Z3, Z3
	VPANDD Z29, Z2, Z2
	VPSLLVD Z3, Z9, Z9
	VPORD  Z9, Z2, K2, Z2
	VPADDD Z5, Z3, K2, Z3
	VPSLLD $16, Z10, Z4
	VPSRLD $(16+const_codeLimit), Z4, Z4
	VPANDD.Z Z29, Z10, K2, Z10
	VPSLLVD.Z Z4, Z11, K2, Z11
	VPORD  Z11, Z10, Z10
	VPADDD.Z Z4, Z12, K2, Z12

	// Length and distance of one token to a quadword, odd ones apart.
	VPSRLQ $32, Z2, Z7
	VPSRLQ $32, Z3, Z8
	VPSRLQ $32, Z10, Z9
	VPSRLQ $32, Z12, Z11
	VPANDQ Z17, Z2, Z2
	VPANDQ Z17, Z3, Z3
	VPANDQ Z17, Z10, Z10
	VPANDQ Z17, Z12, Z12
	VPSLLVQ Z3, Z10, Z10
	VPORQ  Z10, Z2, Z2
	VPADDQ Z12, Z3, Z3
	VPSLLVQ Z8, Z9, Z9
	VPORQ  Z9, Z7, Z7
	VPADDQ Z11, Z8, Z8
	// Two tokens to a quadword.
	VPSLLVQ Z3, Z7, Z7
	VPORQ  Z7, Z2, Z2
	VPADDQ Z8, Z3, Z3
	VPCMPUQ $6, Z28, Z3, K1
	KORTESTB K1, K1
	JNZ  done

	ENDS
	VPANDQ Z13, Z5, Z7
	VPSLLVQ Z7, Z2, Z2
	VPSRLQ $3, Z5, Z5
	CARRY(1)
	CARRY(2)
	CARRY(4)
	VPSUBQ Z20, Z5, Z8
	VPSLLQ $3, Z8, Z8
	VPSRLVQ Z8, Z15, Z7
	VPORQ  Z7, Z2, Z2
	VPERMQ Z2, Z14, Z15
	VPERMQ Z5, Z14, Z20
	PLACE8
	ADDQ $64, SI
	SUBQ $16, R9
	JGT  loop

done:
	MOVQ R9, left+48(FP)
	VMOVQ X16, AX
	MOVQ AX, end+56(FP)
	VMOVQ X20, CX
	VMOVQ X15, DX
	SHRQ $3, AX
	SUBQ CX, AX
	SHLQ $3, AX
	SHRXQ AX, DX, DX
	// A shift by all of a quadword leaves nothing.
	XORL CX, CX
	CMPQ AX, $63
	CMOVQHI CX, DX
	MOVQ DX, accOut+64(FP)
	VZEROUPPER
	RET
