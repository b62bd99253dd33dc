//go:build !noasm

#include "textflag.h"
#include "go_asm.h"

// Registers throughout:
//
//	SI  next input   BX  bits             R8  next output    R11 the tables
//	R10 its limit    CX  their number,    R9  end of page    R12 patterns
//	                     in the low byte  DI  start of page

#define LITLEN (blockCode_litLen+litLenTable_table)
#define DIST   (blockCode_distance+distanceTable_table)

// REFILL makes at least 56 bits valid. See bitReader.refill.
#define REFILL \
	MOVQ  (SI), R13     \
	SHLXQ CX, R13, R13  \
	ORQ   R13, BX       \
	MOVL  CX, R13       \
	SHRL  $3, R13       \
	ANDL  $7, R13       \
	ADDQ  $7, SI        \
	SUBQ  R13, SI       \
	ORL   $56, CX

// LOOKUP sets e to the entry of the next literal or length.
#define LOOKUP(e) \
	MOVL BX, e                   \
	ANDL $const_litLenMask, e    \
	MOVL LITLEN(R11)(e*4), e

// LITERAL consumes literal e, looks up what comes next, and stores the literal.
#define LITERAL(e, then, at) \
	SHRXQ e, BX, BX     \
	SUBL  e, CX         \
	LOOKUP(then)        \
	SHRL  $16, e        \
	MOVB  e, at(R8)

// FIXEDLITERAL is LITERAL for the fixed code, where the first five bits tell
// whether a literal has eight bits or nine (R15 has one bit for each value).
// That is known sooner than the entry.
#define FIXEDLITERAL(e, then, at) \
	MOVL  $8, R13       \
	BTL   BX, R15       \
	ADCL  $0, R13       \
	SHRXQ R13, BX, BX   \
	SUBL  R13, CX       \
	LOOKUP(then)        \
	SHRL  $16, e        \
	MOVB  e, at(R8)

// MATCH decodes the rest of a match that starts with entry AX, looks up what
// comes next, and copies the match. A distance below 64 is turned into a pattern, so
// that all matches of up to 64 bytes go the same way.
#define MATCH(special, before, longcopy, undo) \
	TESTB $const_entrySpecial, AX  \
	JNZ   special                  \
	MOVQ  BX, acc-8(SP)            \
	MOVQ  CX, count-16(SP)         \
	BZHIQ AX, BX, DX               \
	SHRXQ AX, BX, BX               \
	MOVL  BX, R14                  \
	ANDL  $const_distanceMask, R14 \
	MOVL  DIST(R11)(R14*4), R14    \
	SUBL  AX, CX                   \
	MOVL  AX, R13                  \
	SHRL  $const_entryCode, R13    \
	SHRXQ R13, DX, DX              \
	SHRL  $const_entryValue, AX    \
	ADDL  AX, DX                   \
	TESTB $const_entrySpecial, R14 \
	JNZ   undo                     \
	BZHIQ R14, BX, AX              \
	SHRXQ R14, BX, BX              \
	SUBL  R14, CX                  \
	MOVL  R14, R13                 \
	SHRL  $const_entryCode, R13    \
	SHRXQ R13, AX, AX              \
	SHRL  $const_entryValue, R14   \
	ADDL  AX, R14                  \
	REFILL                         \
	LOOKUP(AX)                     \
	MOVQ  R8, R13                  \
	SUBQ  DI, R13                  \
	CMPQ  R14, R13                 \
	JHI   before                   \
	MOVQ  R8, R13                  \
	SUBQ  R14, R13                 \
	VMOVDQU64 (R13), Z0            \
	CMPQ  R14, $64                 \
	CMOVQHI patterns-24(SP), R14   \
	SHLQ  $6, R14                  \
	VMOVDQU64 (R12)(R14*1), Z1     \
	VPERMB Z0, Z1, Z0              \
	VMOVDQU64 Z0, (R8)             \
	CMPQ  DX, $64                  \
	JHI   longcopy                 \
	ADDQ  DX, R8

#define CHECK(input, full) \
	CMPQ SI, R10  \
	JHI  input    \
	CMPQ R8, R9   \
	JHI  full

// func decodeBlockVBMI2(d *Decoder, c *blockCode, patterns *copyPatterns) status
TEXT ·decodeBlockVBMI2(SB), NOSPLIT, $24-32
	MOVQ d+0(FP), DI
	MOVQ c+8(FP), R11
	MOVQ patterns+16(FP), R12
	MOVQ $64, patterns-24(SP)
	MOVQ (Decoder_in+bitReader_buf)(DI), SI
	MOVQ SI, R10
	ADDQ (Decoder_in+bitReader_limit)(DI), R10
	ADDQ (Decoder_in+bitReader_pos)(DI), SI
	MOVQ (Decoder_in+bitReader_acc)(DI), BX
	MOVQ (Decoder_in+bitReader_count)(DI), CX
	LEAQ Decoder_out(DI), R9
	MOVQ R9, R8
	ADDQ Decoder_n(DI), R8
	MOVQ R9, AX
	ADDQ Decoder_size(DI), R9
	MOVQ AX, DI
	MOVL blockCode_nineBits(R11), R15
	TESTL R15, R15
	JNZ  fixed

top:
	CHECK(input, full)
	REFILL
	LOOKUP(AX)
start:
	TESTL AX, AX
	JNS   match
	LITERAL(AX, DX, 0)
	TESTL DX, DX
	JNS   match1
	LITERAL(DX, AX, 1)
	TESTL AX, AX
	JNS   match2
	LITERAL(AX, DX, 2)
	TESTL DX, DX
	JNS   match3
	SHRXQ DX, BX, BX
	SUBL  DX, CX
	SHRL  $16, DX
	MOVB  DX, 3(R8)
	ADDQ  $4, R8
	JMP   top

match3:
	ADDQ $3, R8
	MOVL DX, AX
	REFILL
	JMP  match
match2:
	ADDQ $2, R8
	REFILL
	JMP  match
match1:
	ADDQ $1, R8
	MOVL DX, AX
match:
	MATCH(special, before, longcopy, undo)
copied:
	CHECK(input, full)
	JMP start

fixed:
	CHECK(input, full)
	REFILL
	LOOKUP(AX)
fixedstart:
	TESTL AX, AX
	JNS   fixedmatch
	FIXEDLITERAL(AX, DX, 0)
	TESTL DX, DX
	JNS   fixedmatch1
	FIXEDLITERAL(DX, AX, 1)
	TESTL AX, AX
	JNS   fixedmatch2
	FIXEDLITERAL(AX, DX, 2)
	TESTL DX, DX
	JNS   fixedmatch3
	FIXEDLITERAL(DX, AX, 3)
	ADDQ  $4, R8
	JMP   fixed

fixedmatch3:
	ADDQ $3, R8
	MOVL DX, AX
	REFILL
	JMP  fixedmatch
fixedmatch2:
	ADDQ $2, R8
	REFILL
	JMP  fixedmatch
fixedmatch1:
	ADDQ $1, R8
	MOVL DX, AX
fixedmatch:
	MATCH(special, before, longcopy, undo)
	CHECK(input, full)
	JMP fixedstart

longcopy:
	// DX is the length, R13 the source, R14 64 times the distance or 64 for any
	// beyond, Z0 the first 64 bytes.
	ADDQ R8, DX
	SHRQ $6, R14
	CMPQ R14, $64
	JEQ  far
	MOVBLZX copyPatterns_step(R12)(R14*1), R14
repeat:
	ADDQ R14, R8
	VMOVDQU64 Z0, (R8)
	CMPQ R8, DX
	JB   repeat
	MOVQ DX, R8
	JMP  copiedlong
far:
	ADDQ $64, R13
	ADDQ $64, R8
	VMOVDQU64 (R13), Z0
	VMOVDQU64 Z0, (R8)
	CMPQ R8, DX
	JB   far
	MOVQ DX, R8
copiedlong:
	TESTL R15, R15
	JZ   copied
	CHECK(input, full)
	JMP  fixedstart

input:
	MOVL $const_statusInput, AX
	JMP  leave
full:
	MOVL $const_statusFull, AX
	JMP  leave
before:
	MOVL $const_statusDistance, AX
	JMP  leave
special:
	MOVL AX, DX
	SHRL $const_entryValue, DX
	CMPL DX, $const_specialEnd
	JNE  other
	ANDL $const_entryCount, AX
	SHRXQ AX, BX, BX
	SUBL AX, CX
	MOVL $const_statusEnd, AX
	JMP  leave
undo:
	MOVQ acc-8(SP), BX
	MOVQ count-16(SP), CX
	MOVL R14, DX
	SHRL $const_entryValue, DX
other:
	MOVL $const_statusLong, AX
	CMPL DX, $const_specialLong
	JEQ  leave
	MOVL $const_statusSymbol, AX
leave:
	MOVQ AX, ret+24(FP)
	MOVQ d+0(FP), AX
	SUBQ DI, R8
	MOVQ R8, Decoder_n(AX)
	SUBQ (Decoder_in+bitReader_buf)(AX), SI
	MOVQ SI, (Decoder_in+bitReader_pos)(AX)
	MOVQ BX, (Decoder_in+bitReader_acc)(AX)
	MOVBLZX CX, CX
	MOVQ CX, (Decoder_in+bitReader_count)(AX)
	VZEROUPPER
	RET
