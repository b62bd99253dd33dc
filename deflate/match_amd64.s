//go:build !noasm

#include "textflag.h"
#include "go_asm.h"

// Byte numbers that spread seven bytes into four overlapping words.
DATA spread<>+0(SB)/8, $0x0403020103020100
DATA spread<>+8(SB)/8, $0x0605040305040302
GLOBL spread<>(SB), RODATA|NOPTR, $16

// Numbers of the two words that such seven bytes are in, for each of four groups of them.
DATA pairs<>+0(SB)/8, $0x0000000100000000
DATA pairs<>+8(SB)/8, $0x0000000100000000
DATA pairs<>+16(SB)/8, $0x0000000200000001
DATA pairs<>+24(SB)/8, $0x0000000200000001
DATA pairs<>+32(SB)/8, $0x0000000300000002
DATA pairs<>+40(SB)/8, $0x0000000300000002
DATA pairs<>+48(SB)/8, $0x0000000400000003
DATA pairs<>+56(SB)/8, $0x0000000400000003
GLOBL pairs<>(SB), RODATA|NOPTR, $64

DATA lanes<>+0(SB)/8, $0x0000000100000000
DATA lanes<>+8(SB)/8, $0x0000000300000002
DATA lanes<>+16(SB)/8, $0x0000000500000004
DATA lanes<>+24(SB)/8, $0x0000000700000006
DATA lanes<>+32(SB)/8, $0x0000000900000008
DATA lanes<>+40(SB)/8, $0x0000000b0000000a
DATA lanes<>+48(SB)/8, $0x0000000d0000000c
DATA lanes<>+56(SB)/8, $0x0000000f0000000e
GLOBL lanes<>(SB), RODATA|NOPTR, $64

#define TABLE  matcher_table
#define BUCKET (matcher_scratch+scratch_bucket)
#define FRESH  (matcher_scratch+scratch_fresh)
#define OLD    (matcher_scratch+scratch_old)
#define DIST   (matcher_scratch+scratch_dist)
#define TAKEN  (matcher_scratch+scratch_tok)
#define SRC    matcher_src

// Registers throughout:
//
//	DI  the matcher         R12  candidates of the block
//	R8  end of the tokens   R13  positions where a token starts
//	R9  start of the block  R14  positions where a match starts
//	R10 next uncovered      BX   buffers of the block ahead
//
//	Z31 hashMul   Z30 spread   Z29 lanes   Z28 posMask   Z27 its complement
//	Z26 -1        Z25 16       Z24 pairs

// HASH16 finds bucket and fresh entry of the 16 positions from offset g of the
// block at R11; Z5 holds the positions, SI the buffers.
#define HASH16(g) \
	VMOVDQU (SRC+g)(DI)(R11*1), Y0      \
	VPERMD Z0, Z24, Z0                  \
	VPSHUFB Z30, Z0, Z0                 \
	VPMULLD Z31, Z0, Z0                 \
	VPSRLD $(32-const_hashBits), Z0, Z1 \
	VPSLLD $const_hashBits, Z0, Z0      \
	VPTERNLOGD $0xf8, Z28, Z5, Z0       \
	VMOVDQU32 Z1, (BUCKET+4*(g))(SI)    \
	VMOVDQU32 Z0, (FRESH+4*(g))(SI)     \
	VPADDD Z25, Z5, Z5

#define HASH64 \
	HASH16(0)  \
	HASH16(16) \
	HASH16(32) \
	HASH16(48)

// SWAP2 enters two positions of the block ahead and keeps what they replace.
// The two share a store, for stores are the bottleneck here. It uses AX, SI and R11.
#define SWAP2(i) \
	MOVL (BUCKET+4*(i))(BX), AX   \
	MOVL (FRESH+4*(i))(BX), SI    \
	MOVL TABLE(DI)(AX*4), R11     \
	MOVL SI, TABLE(DI)(AX*4)      \
	MOVL (BUCKET+4*(i)+4)(BX), AX \
	MOVL TABLE(DI)(AX*4), SI      \
	SHLQ $32, SI                  \
	ORQ  SI, R11                  \
	MOVL (FRESH+4*(i)+4)(BX), SI  \
	MOVL SI, TABLE(DI)(AX*4)      \
	MOVQ R11, (OLD+4*(i))(DI)

#define SWAP16(i) \
	SWAP2(i)      \
	SWAP2(i+2)    \
	SWAP2(i+4)    \
	SWAP2(i+6)    \
	SWAP2(i+8)    \
	SWAP2(i+10)   \
	SWAP2(i+12)   \
	SWAP2(i+14)

// COMPARE16 sets mask k for the candidates among 16 positions and keeps their
// distances.
#define COMPARE16(g, k) \
	VMOVDQU32 (OLD+4*(g))(DI), Z0     \
	VMOVDQU32 (FRESH+4*(g))(SI), Z1   \
	VPXORD Z0, Z1, Z2               \
	VPSUBD Z0, Z1, Z1               \
	VPTESTNMD Z27, Z2, K1           \
	VPADDD Z26, Z1, Z1              \
	VPANDD Z28, Z1, Z1              \
	VPCMPUD $1, Z5, Z1, K1, k       \
	VMOVDQU32 Z1, (DIST+4*(g))(DI)    \
	VPADDD Z25, Z5, Z5

// EXPAND16 appends the tokens that start at the 16 positions from offset g.
// It shifts them out of R13 and R14.
#define EXPAND16(g) \
	KMOVW R13, K1                          \
	KMOVW R14, K2                          \
	VPMOVZXBD (SRC+g)(DI)(R9*1), Z0        \
	VMOVDQU32 (TAKEN+4*(g))(DI), K2, Z0      \
	VPCOMPRESSD.Z Z0, K1, Z1               \
	VMOVDQU32 Z1, (R8)                     \
	MOVWLZX R13, AX                        \
	POPCNTL AX, AX                         \
	LEAQ (R8)(AX*4), R8                    \
	SHRQ $16, R13                          \
	SHRQ $16, R14

// START finds the next candidate and starts to measure the match there: CX is
// its place in the block, DX the distance-1, R15 becomes the mask of differing
// bytes.
#define START(none) \
	TZCNTQ R12, CX                            \
	JCS    none                               \
	MOVL   DIST(DI)(CX*4), DX                 \
	LEAQ   (R9)(CX*1), AX                     \
	MOVQ   AX, R15                            \
	SUBQ   DX, R15                            \
	VMOVDQU8 SRC(DI)(AX*1), Z0                \
	VPCMPUB $4, (SRC-1)(DI)(R15*1), Z0, K1    \
	KMOVQ  K1, R15

// TAKE makes a match of what START found, and drops the candidates that it
// covers.
#define TAKE(long, measured, lazy, take, reject, beyond) \
	CMPB   lazy+8(FP), $0                     \
	JNE    lazy                               \
	TZCNTQ R15, R15                           \
	JCS    long                               \
measured: \
	CMPQ   R15, $const_minMatch               \
	JLT    reject                             \
take: \
	MOVL   R15, AX                            \
	SHLL   $16, AX                            \
	LEAL   (const_matchFlag-3<<16)(AX)(DX*1), AX \
	MOVL   AX, TAKEN(DI)(CX*4)                \
	BTSQ   CX, R14                            \
	ADDQ   CX, R15                            \
	ADDL   $1, CX                             \
	LEAQ   (R9)(R15*1), R10                   \
	BZHIQ  CX, R13, DX                        \
	CMPQ   R15, $64                           \
	JGE    beyond                             \
	MOVQ   $-1, AX                            \
	SHLXQ  R15, AX, AX                        \
	ANDQ   AX, R12                            \
	ANDQ   AX, R13                            \
	ORQ    DX, R13

// LONG measures on where the first 64 bytes agree.
#define LONG(loop, differs, measured) \
	MOVL   $64, R15                           \
	LEAQ   SRC(DI)(R9*1), AX                  \
	ADDQ   CX, AX                             \
	MOVQ   AX, SI                             \
	SUBQ   DX, SI                             \
loop: \
	VMOVDQU8 (AX)(R15*1), Z0                  \
	VPCMPUB $4, -1(SI)(R15*1), Z0, K1         \
	KMOVQ  K1, R11                            \
	TZCNTQ R11, R11                           \
	JCC    differs                            \
	ADDQ   $64, R15                           \
	CMPQ   R15, $256                          \
	JLE    loop                               \
differs: \
	ADDQ   R11, R15                           \
	MOVL   $const_maxMatch, R11               \
	CMPQ   R15, R11                           \
	CMOVQGT R11, R15                          \
	JMP    measured

// LAZY looks whether a candidate at the next position gives a longer match,
// unless it just continues this one, and if so prefers it. It measures there in
// any case, candidate or not: a distance is always such that this is harmless, and a
// branch would be mispredicted too often.
#define LAZY(long, reject, take, extend) \
	MOVL   (DIST+4)(DI)(CX*4), SI             \
	LEAQ   1(R9)(CX*1), AX                    \
	VMOVDQU8 SRC(DI)(AX*1), Z0                \
	SUBQ   SI, AX                             \
	VPCMPUB $4, (SRC-1)(DI)(AX*1), Z0, K1     \
	KMOVQ  K1, AX                             \
	TZCNTQ AX, AX                             \
	SHRXQ  CX, R12, R11                       \
	ANDL   $2, R11                            \
	CMOVQEQ R11, AX                           \
	XORL   R11, R11                           \
	CMPL   SI, DX                             \
	CMOVQEQ R11, AX                           \
	TZCNTQ R15, R15                           \
	JCS    long                               \
	CMPQ   R15, $const_minMatch               \
	JLT    reject                             \
	CMPQ   R15, $const_lazyBelow              \
	CMOVQGE R11, AX                           \
	LEAQ   1(CX), R11                         \
	CMPQ   AX, R15                            \
	CMOVQGT AX, R15                           \
	CMOVQGT SI, DX                            \
	CMOVQGT R11, CX                           \
	CMPQ   R15, $64                           \
	JEQ    extend                             \
	JMP    take

// func findTokensAVX512(m *matcher, lazy bool)
TEXT ·findTokensAVX512(SB), NOSPLIT, $24-9
	MOVQ m+0(FP), DI
	LEAQ matcher_tok(DI), R8
	XORL R10, R10
	MOVL $const_hashMul, AX
	VPBROADCASTD AX, Z31
	VBROADCASTI32X4 spread<>(SB), Z30
	VMOVDQU64 pairs<>(SB), Z24
	VMOVDQU64 lanes<>(SB), Z29
	MOVL $const_posMask, AX
	VPBROADCASTD AX, Z28
	NOTL AX
	VPBROADCASTD AX, Z27
	VPTERNLOGD $0xff, Z26, Z26, Z26
	MOVL $16, AX
	VPBROADCASTD AX, Z25
	VPXORQ X0, X0, X0
	MOVQ $0, quiet-8(SP)
	MOVQ $0, skip-16(SP)
	LEAQ TABLE(DI), AX
	LEAQ (TABLE+(4<<const_hashBits))(DI), CX

clear:
	VMOVDQU64 Z0, (AX)
	VMOVDQU64 Z0, 64(AX)
	VMOVDQU64 Z0, 128(AX)
	VMOVDQU64 Z0, 192(AX)
	ADDQ $256, AX
	CMPQ AX, CX
	JB   clear

	XORL R11, R11
	MOVQ DI, SI
	VMOVDQA64 Z29, Z5
	HASH64
	MOVQ DI, BX
	SWAP16(0)
	SWAP16(16)
	SWAP16(32)
	SWAP16(48)
	MOVQ $64, R11
	LEAQ 256(DI), SI
	VPBROADCASTD R11, Z5
	VPADDD Z29, Z5, Z5
	HASH64
	XORL R9, R9

compare:
	// The block was looked up; see what came of it.
	VPBROADCASTD R9, Z5
	VPADDD Z29, Z5, Z5
	MOVQ R9, SI
	ANDL $64, SI
	LEAQ (DI)(SI*4), SI
	COMPARE16(0, K2)
	COMPARE16(16, K3)
	COMPARE16(32, K4)
	COMPARE16(48, K5)
	KUNPCKWD K2, K3, K2
	KUNPCKWD K4, K5, K4
	KUNPCKDQ K2, K4, K2
	KMOVQ K2, R12

	// Words that reach behind the page do not count.
	MOVQ matcher_n(DI), AX
	SUBQ $(const_minMatch-1), AX
	SUBQ R9, AX
	CMPQ AX, $64
	JGE  counted
	XORL CX, CX
	TESTQ AX, AX
	CMOVQLT CX, AX
	BZHIQ AX, R12, R12
counted:
	TESTQ R12, R12
	JZ   nothing
	MOVQ $0, quiet-8(SP)
	MOVQ $0, skip-16(SP)

ahead:
	// Hash two blocks ahead, so that what is stored here has left the store
	// queue when it is needed. If two are skipped it will not be.
	CMPQ skip-16(SP), $2
	JGE  hashed
	LEAQ 128(R9), R11
	CMPQ R11, matcher_n(DI)
	JGE  hashed
	LEAQ 192(R9), AX
	CMPQ R10, AX
	JGE  hashed
	VPBROADCASTD R11, Z5
	VPADDD Z29, Z5, Z5
	MOVQ R9, SI
	ANDL $64, SI
	LEAQ (DI)(SI*4), SI
	HASH64

hashed:
	// R13 has the positions yet to be covered.
	MOVQ matcher_n(DI), AX
	SUBQ R9, AX
	MOVQ $-1, R13
	CMPQ AX, $64
	JGE  whole
	BZHIQ AX, R13, R13
whole:
	XORL R14, R14
	MOVQ R10, CX
	SUBQ R9, CX
	JLE  uncovered
	CMPQ CX, $64
	JGE  covered
	MOVQ $-1, AX
	SHLXQ CX, AX, AX
	ANDQ AX, R13
	ANDQ AX, R12
	JMP  uncovered
covered:
	XORL R13, R13
	XORL R12, R12
uncovered:
	MOVQ skip-16(SP), AX
	SUBQ $1, AX
	JGE  pass
	LEAQ 64(R9), AX
	CMPQ AX, matcher_n(DI)
	JGE  lookless
	LEAQ 128(R9), AX
	CMPQ R10, AX
	JGE  lookless

	// Select from this block and look up the next in turns: the one waits for
	// memory, the other for nothing.
	LEAQ 64(R9), BX
	ANDL $64, BX
	LEAQ (DI)(BX*4), BX
	START(rest0)
	SWAP16(0)
	TAKE(long0, measured0, lazy0, take0, reject0, beyond0)
then1:
	START(rest1)
	SWAP16(16)
	TAKE(long1, measured1, lazy1, take1, reject1, beyond1)
then2:
	START(rest2)
	SWAP16(32)
	TAKE(long2, measured2, lazy2, take2, reject2, beyond2)
then3:
	START(rest3)
	SWAP16(48)
	TAKE(long3, measured3, lazy3, take3, reject3, beyond3)
then4:
	MOVL $1, looked-24(SP)
	JMP select

beyond0:
	MOVQ DX, R13
	JMP rest1
beyond1:
	MOVQ DX, R13
	JMP rest2
beyond2:
	MOVQ DX, R13
	JMP rest3
beyond3:
	MOVQ DX, R13
	JMP rest4

rest0:
	SWAP16(0)
rest1:
	SWAP16(16)
rest2:
	SWAP16(32)
rest3:
	SWAP16(48)
rest4:
	MOVL $1, looked-24(SP)
	JMP  expand

pass:
	MOVQ AX, skip-16(SP)
lookless:
	MOVL $0, looked-24(SP)
select:
	START(expand)
	TAKE(long4, measured4, lazy4, take4, reject4, beyond4)
	JMP select
beyond4:
	MOVQ DX, R13

expand:
	CMPQ R13, $-1
	JEQ  literals
	EXPAND16(0)
	EXPAND16(16)
	EXPAND16(32)
	EXPAND16(48)

advance:
	ADDQ $64, R9
	CMPQ R9, matcher_n(DI)
	JGE  done
	CMPL looked-24(SP), $0
	JNE  compare
	XORL R12, R12
	JMP  ahead

done:
	// A match may have run on into the zeros behind the page.
	SUBQ matcher_n(DI), R10
	JLE  exact
	SHLL $16, R10
	SUBL R10, -4(R8)
exact:
	LEAQ matcher_tok(DI), AX
	SUBQ AX, R8
	SHRQ $2, R8
	MOVQ R8, matcher_ntok(DI)
	VZEROUPPER
	RET

literals:
	// A token for every byte needs no moving together.
	KMOVQ R14, K1
	KSHIFTRQ $16, K1, K2
	KSHIFTRQ $32, K1, K3
	KSHIFTRQ $48, K1, K4
	VPMOVZXBD SRC(DI)(R9*1), Z0
	VPMOVZXBD (SRC+16)(DI)(R9*1), Z1
	VPMOVZXBD (SRC+32)(DI)(R9*1), Z2
	VPMOVZXBD (SRC+48)(DI)(R9*1), Z3
	VMOVDQU32 (TAKEN+0)(DI), K1, Z0
	VMOVDQU32 (TAKEN+64)(DI), K2, Z1
	VMOVDQU32 (TAKEN+128)(DI), K3, Z2
	VMOVDQU32 (TAKEN+192)(DI), K4, Z3
	VMOVDQU32 Z0, (R8)
	VMOVDQU32 Z1, 64(R8)
	VMOVDQU32 Z2, 128(R8)
	VMOVDQU32 Z3, 192(R8)
	ADDQ $256, R8
	JMP  advance

nothing:
	MOVQ quiet-8(SP), AX
	ADDQ $1, AX
	MOVQ AX, quiet-8(SP)
	SUBQ $(const_quietBlocks-1), AX
	JLE  ahead
	MOVL $const_maxSkip, CX
	CMPQ AX, CX
	CMOVQGT CX, AX
	MOVQ AX, skip-16(SP)
	JMP  ahead

reject0:
	BLSRQ R12, R12
	JMP then1
reject1:
	BLSRQ R12, R12
	JMP then2
reject2:
	BLSRQ R12, R12
	JMP then3
reject3:
	BLSRQ R12, R12
	JMP then4
reject4:
	BLSRQ R12, R12
	JMP select

long0:
	LONG(longer0, differs0, measured0)
long1:
	LONG(longer1, differs1, measured1)
long2:
	LONG(longer2, differs2, measured2)
long3:
	LONG(longer3, differs3, measured3)
long4:
	LONG(longer4, differs4, measured4)
lazy0:
	LAZY(long0, reject0, take0, extend0)
extend0:
	LONG(extendloop0, extended0, take0)
lazy1:
	LAZY(long1, reject1, take1, extend1)
extend1:
	LONG(extendloop1, extended1, take1)
lazy2:
	LAZY(long2, reject2, take2, extend2)
extend2:
	LONG(extendloop2, extended2, take2)
lazy3:
	LAZY(long3, reject3, take3, extend3)
extend3:
	LONG(extendloop3, extended3, take3)
lazy4:
	LAZY(long4, reject4, take4, extend4)
extend4:
	LONG(extendloop4, extended4, take4)
