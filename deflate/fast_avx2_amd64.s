//go:build !noasm

#include "textflag.h"
#include "go_asm.h"

// What R15 is for each position of the group.
DATA ranks<>+0(SB)/4, $4
DATA ranks<>+4(SB)/4, $5
DATA ranks<>+8(SB)/4, $6
DATA ranks<>+12(SB)/4, $7
GLOBL ranks<>(SB), RODATA|NOPTR, $16

#define N      (Encoder_match+matcher_n)
#define SRC    (Encoder_match+matcher_src)
#define POS    (Encoder_fast+fastCoder_pos)
#define END    (Encoder_fast+fastCoder_end)
#define LAST   (Encoder_fast+fastCoder_last)
#define TABLE  (Encoder_fast+fastCoder_table)
#define ACC    (Encoder_out+bitWriter_acc)
#define COUNT  (Encoder_out+bitWriter_count)
#define OUT    (Encoder_out+bitWriter_n)
#define BUF    (Encoder_out+bitWriter_buf)
#define LENGTH   (fixedTables_length+4*(4-3))
#define DISTANCE (fixedTables_distance-4*1)

// HASH leaves the hash of the four bytes at the bottom of r in r.
#define HASH(r) \
	IMUL3L $(const_fastMul-1<<32), r, r \
	SHRL  $(32-const_fastBits), r

// ENTER enters the position k of the group and leaves the one that it replaces in c. It
// uses AX and R15.
#define ENTER(k, c) \
	RORXQ $(8+8*k), BX, AX          \
	HASH(AX)                        \
	LEAL k(R11), R15                \
	MOVWLZX TABLE(DI)(AX*2), c      \
	MOVW R15, TABLE(DI)(AX*2)

// FLUSH stores the bits in R9 and keeps those that are not in a whole byte.
#define FLUSH \
	MOVQ R9, (R8)                   \
	MOVL R10, CX                    \
	MOVL R10, SI                    \
	SHRL $3, CX                     \
	ADDQ CX, R8                     \
	ANDL $0x38, SI                  \
	SHRXQ SI, R9, R9                \
	ANDL $7, R10

// func groupsAVX2(e *Encoder, words *fixedTables)
//
// Registers:
//
//	DI  the Encoder         R11  position of the group
//	R13 the fixed code      R9   bits that are not in a whole byte, their number in R10
//	R8  where they go
//
//	BX  the eight bytes from the position before the group on, then the code of its first
//	    three bytes
//	R14 a bit for each of these bytes that takes nine bits: 7, 15, 23
//	R15 four more than the number of positions before the match, or 8 without one
//	R12 where the match is a copy of
//	AX  the fifth byte of the match, then its end
//	CX  its length less 4   DX   its distance
//
// At the head of the loop, everything before R11 is written but for the bits in R9, of
// which there are at most seven, and all others of R9 are zero. Every position in the table
// is before R11. The loop is a chain of loads, each of which needs the one before: the
// bytes, the table, the bytes there, and the bytes of the match, whose length gives the next
// position. All else waits for nothing.
TEXT ·groupsAVX2(SB), NOSPLIT, $16-16
	MOVQ e+0(FP), DI
	MOVQ words+8(FP), R13
	MOVQ POS(DI), R11
	MOVQ ACC(DI), R9
	MOVQ COUNT(DI), R10
	MOVQ OUT(DI), R8
	LEAQ BUF(DI)(R8*1), R8
	MOVQ LAST(DI), AX
	MOVQ AX, last-8(SP)
	MOVQ END(DI), AX
	ADDQ $const_coldLen, AX
	MOVQ AX, cold-16(SP)

	PCALIGN $32
group:
	MOVQ (SRC-1)(DI)(R11*1), BX
	MOVL BX, AX
	HASH(AX)
	LEAL -1(R11), R15
	MOVW R15, TABLE(DI)(AX*2)
	ENTER(0, CX)
	ENTER(1, DX)
	ENTER(2, SI)
	ENTER(3, R12)

	// Find the first match, from the last position to the first.
	MOVL $8, R15
	MOVL SRC(DI)(R12*1), AX
	CMPL AX, (SRC+3)(DI)(R11*1)
	CMOVLEQ ranks<>+12(SB), R15
	MOVL SRC(DI)(SI*1), AX
	CMPL AX, (SRC+2)(DI)(R11*1)
	CMOVLEQ ranks<>+8(SB), R15
	CMOVLEQ SI, R12
	MOVL SRC(DI)(DX*1), AX
	CMPL AX, (SRC+1)(DI)(R11*1)
	CMOVLEQ ranks<>+4(SB), R15
	CMOVLEQ DX, R12
	MOVL SRC(DI)(CX*1), AX
	CMPL AX, SRC(DI)(R11*1)
	CMOVLEQ ranks<>+0(SB), R15
	CMOVLEQ CX, R12

	LEAQ (R11)(R15*1), AX
	VMOVDQU (SRC+4)(DI)(R12*1), X0
	VPCMPEQB SRC(DI)(AX*1), X0, X0
	LEAL -4(AX), DX
	SUBL R12, DX

	// Join the code of the first three bytes.
	SHRQ $8, BX
	MOVL BX, R14
	ANDL $0x7f7f7f, R14
	ADDL $0x707070, R14
	ANDL BX, R14
	ANDL $0x808080, R14
	MOVBLZX BX, CX
	MOVL (R13)(CX*4), CX
	SHRL $8, BX
	MOVBLZX BX, SI
	MOVL (R13)(SI*4), SI
	SHRL $8, BX
	MOVBLZX BX, BX
	MOVL (R13)(BX*4), BX
	SHRL $8, BX
	SHLXQ CX, BX, BX
	SHLXQ SI, BX, BX
	SHRL $8, SI
	SHLXQ CX, SI, SI
	SHRL $8, CX
	ORQ  CX, BX
	ORQ  SI, BX

	CMPL R15, $8
	JEQ  none

	// Measure the match.
	VPMOVMSKB X0, CX
	XORL $0xffff, CX
	JZ   long
	TZCNTL CX, CX

measured:
	// The byte before may match too, if its own entry was replaced.
	MOVBLZX (SRC-1)(DI)(R12*1), SI
	XORB (SRC-5)(DI)(AX*1), SI
	ADDQ CX, AX
	CMPQ AX, N(DI)
	JGT  beyond
inside:
	LEAL -5(R15), R12
	SARL $31, R12
	ORL  R12, SI
	JZ   before

write:
	LEAL -32(R15*8), SI
	BZHIL SI, R14, R14
	POPCNTL R14, R14
	ADDL SI, R14
	BZHIQ R14, BX, BX
	SHLXQ R10, BX, BX
	ORQ  BX, R9
	ADDL R14, R10
	MOVL LENGTH(R13)(CX*4), CX
	MOVL DISTANCE(R13)(DX*4), DX
	LEAL (CX)(DX*1), R14
	SHRL $8, DX
	SHLXQ CX, DX, DX
	SHRL $8, CX
	ORQ  DX, CX
	SHLXQ R10, CX, CX
	ORQ  CX, R9
	MOVBLZX R14, R14
	ADDL R14, R10
	FLUSH
	MOVQ AX, R11
	ADDQ $const_coldLen, AX
	MOVQ AX, cold-16(SP)
	CMPQ R11, last-8(SP)
	JLE  group
	JMP  out

none:
	// Write all four bytes.
	MOVBLZX (SRC+3)(DI)(R11*1), SI
	MOVL (R13)(SI*4), SI
	POPCNTL R14, R14
	ADDL $24, R14
	MOVL SI, CX
	SHRL $8, CX
	SHLXQ R14, CX, CX
	ORQ  CX, BX
	MOVBLZX SI, SI
	ADDL SI, R14
	SHLXQ R10, BX, BX
	ORQ  BX, R9
	ADDL R14, R10
	FLUSH
	ADDQ $const_groupLen, R11
	CMPQ R11, cold-16(SP)
	JGE  out
	CMPQ R11, last-8(SP)
	JLE  group

out:
	MOVQ R11, POS(DI)
	MOVQ cold-16(SP), AX
	SUBQ $const_coldLen, AX
	MOVQ AX, END(DI)
	MOVQ R9, ACC(DI)
	MOVQ R10, COUNT(DI)
	LEAQ BUF(DI), AX
	SUBQ AX, R8
	MOVQ R8, OUT(DI)
	VZEROUPPER
	RET

long:
	// The first 20 bytes match. R12 and SI are the addresses of the fifth bytes here.
	MOVL $16, CX
	LEAQ SRC(DI)(AX*1), SI
	LEAQ (SRC+4)(DI)(R12*1), R12
longer:
	VMOVDQU (SI)(CX*1), Y0
	VPCMPEQB (R12)(CX*1), Y0, Y0
	VPMOVMSKB Y0, DX
	INCL DX
	JNZ  differs
	ADDL $32, CX
	CMPL CX, $(const_maxMatch-4)
	JLT  longer
differs:
	TZCNTL DX, DX
	ADDL DX, CX
	MOVL $(const_maxMatch-4), DX
	CMPL CX, DX
	CMOVLGT DX, CX
	LEAQ (SRC+4)(DI), DX
	SUBQ DX, R12
	LEAL -4(AX), DX
	SUBL R12, DX
	JMP  measured

before:
	// The match may not start before the page or get too long.
	LEAQ -4(AX), SI
	SUBQ CX, SI
	CMPQ SI, DX
	JEQ  write
	CMPL CX, $(const_maxMatch-4)
	JGE  write
	INCL CX
	DECL R15
	JMP  write

beyond:
	// The bytes behind the page match too.
	SUBQ N(DI), AX
	SUBQ AX, CX
	MOVQ N(DI), AX
	JMP  inside
