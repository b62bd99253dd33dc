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
#define SRC    matcher_src

// Registers throughout:
//
//	DI  the matcher         R12  candidates of the block that no token covers yet
//	R8  end of the tokens   R13  -1
//	R9  start of the block  BX   buffers of the block ahead
//	R10 end of the last match; from there on no byte has a token
//
//	CX  place in the block of the match that is measured, R15 its length, DX its distance-1
//
//	Z31 hashMul   Z30 spread   Z29 lanes   Z28 posMask   Z27 its complement
//	Z25 16        Z24 pairs

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

// SWAP1 enters a position of the block ahead, and sets old to what it replaces, in all lanes.
// It uses AX and SI.
#define SWAP1(i, old) \
	MOVL (BUCKET+4*(i))(BX), AX   \
	MOVL (FRESH+4*(i))(BX), SI    \
	VPBROADCASTD TABLE(DI)(AX*4), old \
	MOVL SI, TABLE(DI)(AX*4)

#define SWAP16(i) \
	SWAP1(i+0, Y2)      \
	SWAP1(i+1, Y3)    \
	VPBLENDD $0x02, Y3, Y2, Y2 \
	SWAP1(i+2, Y3)    \
	VPBLENDD $0x04, Y3, Y2, Y2 \
	SWAP1(i+3, Y3)    \
	VPBLENDD $0x08, Y3, Y2, Y2 \
	SWAP1(i+4, Y3)    \
	VPBLENDD $0x10, Y3, Y2, Y2 \
	SWAP1(i+5, Y3)    \
	VPBLENDD $0x20, Y3, Y2, Y2 \
	SWAP1(i+6, Y3)    \
	VPBLENDD $0x40, Y3, Y2, Y2 \
	SWAP1(i+7, Y3)    \
	VPBLENDD $0x80, Y3, Y2, Y2 \
	SWAP1(i+8, Y4)      \
	SWAP1(i+9, Y3)    \
	VPBLENDD $0x02, Y3, Y4, Y4 \
	SWAP1(i+10, Y3)    \
	VPBLENDD $0x04, Y3, Y4, Y4 \
	SWAP1(i+11, Y3)    \
	VPBLENDD $0x08, Y3, Y4, Y4 \
	SWAP1(i+12, Y3)    \
	VPBLENDD $0x10, Y3, Y4, Y4 \
	SWAP1(i+13, Y3)    \
	VPBLENDD $0x20, Y3, Y4, Y4 \
	SWAP1(i+14, Y3)    \
	VPBLENDD $0x40, Y3, Y4, Y4 \
	SWAP1(i+15, Y3)    \
	VPBLENDD $0x80, Y3, Y4, Y4 \
	VINSERTI64X4 $1, Y4, Z2, Z2 \
	VMOVDQU32 Z2, (OLD+4*(i))(DI)

// COMPARE16 sets mask k for the candidates among 16 positions and keeps their
// distances less 1, which are the complements of old less new position.
#define COMPARE16(g, k) \
	VMOVDQU32 (OLD+4*(g))(DI), Z0     \
	VMOVDQU32 (FRESH+4*(g))(SI), Z1   \
	VPXORD Z0, Z1, Z2               \
	VPSUBD Z1, Z0, Z1               \
	VPTESTNMD Z27, Z2, K1           \
	VPANDND Z28, Z1, Z1             \
	VPCMPUD $1, Z5, Z1, K1, k       \
	VMOVDQU32 Z1, (DIST+4*(g))(DI)    \
	VPADDD Z25, Z5, Z5

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

// TAKE makes tokens of the match that START found and the literals before it, and drops the
// candidates that it covers. It goes on at beyond if these are all that are left.
#define TAKE(long, measured, lazy, take, reject, many, counted, beyond) \
	CMPB   lazy+8(FP), $0                     \
	JNE    lazy                               \
	TZCNTQ R15, R15                           \
	JCS    long                               \
measured: \
	CMPQ   R15, $const_minMatch               \
	JLT    reject                             \
take: \
	VPMOVZXBD SRC(DI)(R10*1), Z0              \
	LEAQ   (R9)(CX*1), R11                    \
	MOVL   R15, AX                            \
	SHLL   $16, AX                            \
	LEAL   (const_matchFlag-3<<16)(AX)(DX*1), AX \
	MOVQ   R11, SI                            \
	SUBQ   R10, SI                            \
	LEAQ   (R11)(R15*1), R10                  \
	VMOVDQU32 Z0, (R8)                        \
	CMPQ   SI, $16                            \
	JGT    many                               \
counted: \
	MOVL   AX, (R8)(SI*4)                     \
	LEAQ   4(R8)(SI*4), R8                    \
	ADDQ   CX, R15                            \
	CMPQ   R15, $64                           \
	JGE    beyond                             \
	SHLXQ  R15, R13, AX                       \
	ANDQ   AX, R12

// MANY makes tokens of SI literals, more than 16, of which the first 16 are done, and of which
// the last is before R11.
#define MANY(loop, counted) \
	SUBQ   SI, R11                            \
loop: \
	ADDQ   $64, R8                            \
	ADDQ   $16, R11                           \
	VPMOVZXBD SRC(DI)(R11*1), Z0              \
	VMOVDQU32 Z0, (R8)                        \
	SUBQ   $16, SI                            \
	CMPQ   SI, $16                            \
	JGT    loop                               \
	JMP    counted

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
//
// It goes through the page in blocks of 64 positions, as findBlocks does. When the loop at
// compare begins, block R9 is looked up: OLD has what the table had for each of its positions,
// and the table has the positions up to the end of the block. Block R9+64 is hashed. compare
// makes R12 and DIST of OLD; ahead hashes block R9+128, into the half of BUCKET and FRESH that
// block R9 no longer needs; then matches of block R9 are taken in turns with looking up block
// R9+64. Every token that ends at R10 or before is written. What is behind R8 is of no
// account: literals are stored 16 at a time, and the next token covers those that are too many.
// looked says whether block R9+64 was looked up, skip how many blocks are not to be, and quiet
// how many before had no candidate.
TEXT ·findTokensAVX512(SB), NOSPLIT, $24-9
	MOVQ m+0(FP), DI
	LEAQ matcher_tok(DI), R8
	XORL R10, R10
	MOVQ $-1, R13
	MOVL $const_hashMul, AX
	VPBROADCASTD AX, Z31
	VBROADCASTI32X4 spread<>(SB), Z30
	VMOVDQU64 pairs<>(SB), Z24
	VMOVDQU64 lanes<>(SB), Z29
	MOVL $const_posMask, AX
	VPBROADCASTD AX, Z28
	NOTL AX
	VPBROADCASTD AX, Z27
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
	MOVQ R10, CX
	SUBQ R9, CX
	JLE  uncovered
	CMPQ CX, $64
	JGE  covered
	SHLXQ CX, R13, AX
	ANDQ AX, R12
	JMP  uncovered
covered:
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
	TAKE(long0, measured0, lazy0, take0, reject0, many0, counted0, rest1)
then1:
	START(rest1)
	SWAP16(16)
	TAKE(long1, measured1, lazy1, take1, reject1, many1, counted1, rest2)
then2:
	START(rest2)
	SWAP16(32)
	TAKE(long2, measured2, lazy2, take2, reject2, many2, counted2, rest3)
then3:
	START(rest3)
	SWAP16(48)
	TAKE(long3, measured3, lazy3, take3, reject3, many3, counted3, rest4)
then4:
	MOVL $1, looked-24(SP)
	JMP select

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
	JMP  advance

pass:
	MOVQ AX, skip-16(SP)
lookless:
	MOVL $0, looked-24(SP)
select:
	START(advance)
	TAKE(long4, measured4, lazy4, take4, reject4, many4, counted4, advance)
	JMP select

advance:
	ADDQ $64, R9
	CMPQ R9, matcher_n(DI)
	JGE  done
	CMPL looked-24(SP), $0
	JNE  compare
	XORL R12, R12
	JMP  ahead

done:
	MOVQ matcher_n(DI), SI
	SUBQ R10, SI
	JG   remaining
	// A match may have run on into the zeros behind the page.
	SHLL $16, SI
	ADDL SI, -4(R8)
exact:
	LEAQ matcher_tok(DI), AX
	SUBQ AX, R8
	SHRQ $2, R8
	MOVQ R8, matcher_ntok(DI)
	VZEROUPPER
	RET

remaining:
	// The literals behind the last match.
	VPMOVZXBD SRC(DI)(R10*1), Z0
	VMOVDQU32 Z0, (R8)
	ADDQ $16, R10
	ADDQ $64, R8
	SUBQ $16, SI
	JG   remaining
	LEAQ (R8)(SI*4), R8
	JMP  exact

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
many0:
	MANY(more0, counted0)
many1:
	MANY(more1, counted1)
many2:
	MANY(more2, counted2)
many3:
	MANY(more3, counted3)
many4:
	MANY(more4, counted4)
