//go:build !noasm

#include "textflag.h"
#include "go_asm.h"
#include "tokens_amd64.h"

// The last literal whose code has eight bits.
DATA lastEight<>+0(SB)/4, $143
GLOBL lastEight<>(SB), RODATA|NOPTR, $4

// The bits of literals in reverse, by the low and the high half of the literal. Literals below
// 144 have the code literal+0x30, the others a one before the literal's own bits.
DATA revLow<>+0(SB)/8, $0xe060a020c0408000
DATA revLow<>+8(SB)/8, $0xf070b030d0509010
GLOBL revLow<>(SB), RODATA|NOPTR, $16

DATA revHigh<>+0(SB)/8, $0x0509010e060a020c
DATA revHigh<>+8(SB)/8, $0x0f070b030d05090d
GLOBL revHigh<>(SB), RODATA|NOPTR, $16

// The code of each length symbol, less 256, in reverse; from bit 16 on its number of bits.
DATA lengthCodes<>+0(SB)/8, $0x0007004000070000
DATA lengthCodes<>+8(SB)/8, $0x0007006000070020
DATA lengthCodes<>+16(SB)/8, $0x0007005000070010
DATA lengthCodes<>+24(SB)/8, $0x0007007000070030
DATA lengthCodes<>+32(SB)/8, $0x0007004800070008
DATA lengthCodes<>+40(SB)/8, $0x0007006800070028
DATA lengthCodes<>+48(SB)/8, $0x0007005800070018
DATA lengthCodes<>+56(SB)/8, $0x0007007800070038
DATA lengthCodes<>+64(SB)/8, $0x0007004400070004
DATA lengthCodes<>+72(SB)/8, $0x0007006400070024
DATA lengthCodes<>+80(SB)/8, $0x0007005400070014
DATA lengthCodes<>+88(SB)/8, $0x0007007400070034
DATA lengthCodes<>+96(SB)/8, $0x0008008300080003
DATA lengthCodes<>+104(SB)/8, $0x000800c300080043
DATA lengthCodes<>+112(SB)/8, $0x000800a300080023
DATA lengthCodes<>+120(SB)/8, $0x000800e300080063
GLOBL lengthCodes<>(SB), RODATA|NOPTR, $128

// The code of each distance symbol in reverse, and behind it its five bits.
DATA distanceCodes<>+0(SB)/8, $0x0000001000000000
DATA distanceCodes<>+8(SB)/8, $0x0000001800000008
DATA distanceCodes<>+16(SB)/8, $0x0000001400000004
DATA distanceCodes<>+24(SB)/8, $0x0000001c0000000c
DATA distanceCodes<>+32(SB)/8, $0x0000001200000002
DATA distanceCodes<>+40(SB)/8, $0x0000001a0000000a
DATA distanceCodes<>+48(SB)/8, $0x0000001600000006
DATA distanceCodes<>+56(SB)/8, $0x0000001e0000000e
DATA distanceCodes<>+64(SB)/8, $0x0000001100000001
DATA distanceCodes<>+72(SB)/8, $0x0000001900000009
DATA distanceCodes<>+80(SB)/8, $0x0000001500000005
DATA distanceCodes<>+88(SB)/8, $0x0000001d0000000d
DATA distanceCodes<>+96(SB)/8, $0x0000001300000003
DATA distanceCodes<>+104(SB)/8, $0x0000001b0000000b
DATA distanceCodes<>+112(SB)/8, $0x0000001700000007
DATA distanceCodes<>+120(SB)/8, $0x0000001f0000000f
GLOBL distanceCodes<>(SB), RODATA|NOPTR, $128

// func writeFixedAVX512(dst *byte, tokens *token, n int, at, acc uint64) (end, accOut uint64)
//
// It encodes n tokens, a positive multiple of 16, from bit at of dst on. acc
// has the bits of the byte there that are filled already.
//
// When the loop begins, SI is at the next 16 tokens, R9 is the number of tokens behind them,
// Z16 has in each quadword the bit of dst where they begin, and the last quadword of Z15 has
// the bits before that one in its byte. All bytes before that byte are final. DI is dst, R12
// the buffer. K4 selects the low byte of each token, Z19 and Z20 are lengthCodes, Z23 and Z26
// distanceCodes, Z22 revLow, Z21 revHigh, Z30 5, Z29 15, Z28 8; tokens_amd64.h has the others.
// Each quadword gets the bits of two tokens. Any two tokens take at least eight bits, which is
// why what each quadword leaves to the next depends on no other.
TEXT ·writeFixedAVX512(SB), NOSPLIT, $192-56
	MOVQ dst+0(FP), DI
	MOVQ tokens+8(FP), SI
	MOVQ n+16(FP), R9
	BUFFER
	TOKEN_CONSTS
	CONST(5, Z30)
	VPTESTMB Z31, Z31, K4            // the low byte of each token
	CONST(15, Z29)
	CONST(8, Z28)
	VBROADCASTI32X4 revLow<>(SB), Z22
	VBROADCASTI32X4 revHigh<>(SB), Z21
	VMOVDQU64 lengthCodes<>(SB), Z19
	VMOVDQU64 lengthCodes<>+64(SB), Z20
	VMOVDQU64 distanceCodes<>(SB), Z23
	VMOVDQU64 distanceCodes<>+64(SB), Z26
	VPBROADCASTQ at+24(FP), Z16
	VPBROADCASTQ acc+32(FP), Z15
	SUBQ $16, R9

loop:
	VMOVDQU32 (SI), Z0

	// Literals: bits in Z2, their number in Z3.
	VPCMPUD.BCST $6, lastEight<>(SB), Z0, K1         // from 144 on; matches do not matter
	VPMOVD2M Z0, K2
	VPSRLD $4, Z0, Z3
	VPANDD Z29, Z0, Z2
	VPANDD Z29, Z3, Z3
	VPSHUFB Z2, Z22, Z2
	VPSHUFB.Z Z3, Z21, K4, Z3
	VPORD  Z3, Z2, Z2
	VPADDD Z2, Z2, K1, Z2            // nine bits, the first of them a one
	VPORD  Z27, Z2, K1, Z2
	VMOVDQA32 Z28, Z3
	VPADDD Z27, Z3, K1, Z3

	// Matches: bits in Z8, their number in Z1.
	SPLIT_LENGTH
	VMOVDQA64 Z19, Z7
	VPERMT2D Z20, Z8, Z7
	VPSRLD $16, Z7, Z1
	VPANDD Z31, Z7, Z8
	VPSLLVD Z1, Z9, Z9
	VPORD  Z9, Z8, Z8
	VPADDD Z5, Z1, Z1
	SPLIT_DISTANCE
	VPERMI2D Z26, Z23, Z10
	VPSLLD $5, Z11, Z11
	VPORD  Z11, Z10, Z10
	VPSLLVD Z1, Z10, Z10
	VPORD  Z10, Z8, K2, Z2
	VPADDD Z12, Z1, Z1
	VPADDD Z30, Z1, K2, Z3

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
	VMOVDQU64 Z15, 0(R12)
	MOVQ 56(R12), AX
	MOVQ AX, accOut+48(FP)
	VZEROUPPER
	RET
