//go:build !noasm

#include "textflag.h"
#include "go_asm.h"

DATA words<>+0(SB)/8, $0x0003000200010000
DATA words<>+8(SB)/8, $0x0007000600050004
DATA words<>+16(SB)/8, $0x000b000a00090008
DATA words<>+24(SB)/8, $0x000f000e000d000c
DATA words<>+32(SB)/8, $0x0013001200110010
DATA words<>+40(SB)/8, $0x0017001600150014
DATA words<>+48(SB)/8, $0x001b001a00190018
DATA words<>+56(SB)/8, $0x001f001e001d001c
GLOBL words<>(SB), RODATA|NOPTR, $64

// PICK32 appends those of 32 symbols whose bit is set in the low half of k.
#define PICK32(symbols, k) \
	VPCOMPRESSW.Z symbols, k, Z6  \
	VMOVDQU64 Z6, (SI)            \
	KMOVD k, AX                   \
	POPCNTL AX, AX                \
	LEAQ (SI)(AX*2), SI

#define PICK64(low, high, k) \
	PICK32(low, k)      \
	KSHIFTRQ $32, k, k  \
	PICK32(high, k)

// func sortSymbolsVBMI2(c *canonical, lens *[litLenCodes]uint8)
//
// It goes over all symbols once for each length that there is. When the loop begins, CX is the
// length, and the symbols with shorter codes are sorted before SI. DI is c. Z0 to Z4 are the
// lengths of all symbols, Z10 to Z18 the symbols.
TEXT ·sortSymbolsVBMI2(SB), NOSPLIT, $0-16
	MOVQ c+0(FP), DI
	MOVQ lens+8(FP), BX
	VMOVDQU64 0(BX), Z0
	VMOVDQU64 64(BX), Z1
	VMOVDQU64 128(BX), Z2
	VMOVDQU64 192(BX), Z3
	VMOVDQU 256(BX), Y4              // zeros above
	MOVL $0x20, AX
	VPBROADCASTW AX, Z5
	VMOVDQU64 words<>(SB), Z10
	VPADDW Z5, Z10, Z11
	VPADDW Z5, Z11, Z12
	VPADDW Z5, Z12, Z13
	VPADDW Z5, Z13, Z14
	VPADDW Z5, Z14, Z15
	VPADDW Z5, Z15, Z16
	VPADDW Z5, Z16, Z17
	VPADDW Z5, Z17, Z18
	LEAQ canonical_sorted(DI), SI
	MOVL $0, canonical_count(DI)     // none of length 0
	MOVL $1, CX

length:
	VPBROADCASTB CX, Z5
	VPCMPEQB Z0, Z5, K1
	VPCMPEQB Z1, Z5, K2
	VPCMPEQB Z2, Z5, K3
	VPCMPEQB Z3, Z5, K4
	VPCMPEQB Z4, Z5, K5
	MOVQ SI, DX
	KORQ K1, K2, K6
	KORQ K3, K4, K7
	KORQ K5, K6, K6
	KORTESTQ K6, K7
	JEQ  none
	PICK64(Z10, Z11, K1)
	PICK64(Z12, Z13, K2)
	PICK64(Z14, Z15, K3)
	PICK64(Z16, Z17, K4)
	PICK32(Z18, K5)
none:
	MOVQ SI, AX
	SUBQ DX, AX
	SHRQ $1, AX
	MOVW AX, canonical_count(DI)(CX*2)
	ADDL $1, CX
	CMPL CX, $const_maxCodeBits
	JLE  length

	VZEROUPPER
	RET
