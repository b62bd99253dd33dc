//go:build !noasm

#include "textflag.h"
#include "go_asm.h"

// LOOKUP enters position R8+k and measures the match with the one that its bucket had
// before: CX becomes that one, AX how many of 32 bytes are equal. It uses R15 and Y0.
#define LOOKUP(k) \
	IMUL3L $const_hashMul, k(SI)(R8*1), AX \
	SHRL $(32-const_hashBits), AX    \
	MOVWLZX (R12)(AX*2), CX          \
	LEAL k(R8), R15                  \
	MOVW R15, (R12)(AX*2)            \
	VMOVDQU (SI)(CX*1), Y0           \
	VPCMPEQB k(SI)(R8*1), Y0, Y0     \
	VPMOVMSKB Y0, AX                 \
	NOTL AX                          \
	TZCNTL AX, AX

// ENTER enters position BX+k; R15 is the address of BX+0 in the source. It uses AX and CX.
#define ENTER(k) \
	IMUL3L $const_hashMul, k(R15), AX \
	SHRL $(32-const_hashBits), AX    \
	LEAL k(BX), CX                   \
	MOVW CX, (R12)(AX*2)

#define ENTER8(k) \
	ENTER(k)   \
	ENTER(k+1) \
	ENTER(k+2) \
	ENTER(k+3) \
	ENTER(k+4) \
	ENTER(k+5) \
	ENTER(k+6) \
	ENTER(k+7)

// LITERAL appends and counts the byte at R8. It uses R15.
#define LITERAL \
	MOVBLZX (SI)(R8*1), R15          \
	MOVL R15, (R9)                   \
	ADDQ $4, R9                      \
	INCL weights_litLen(R10)(R15*4)

// func findLazyAVX2(m *matcher, s *weights) (pos, ntok int, holes bool)
//
// It is the loop of findLazyGo, for pages of 8 to 4,096 bytes, so that no distance is too
// long. It returns the first position without a token, the number of tokens, and whether
// the tokens of some literals before the first match are missing.
//
//	DI  the matcher      R8  position
//	SI  its source       R9  where the next token goes
//	R12 its buckets      R10 the weights
//	R11 last position where a match may start
//	R14 position after which positions are left out
//	R13 the lesser of R11 and R14
//	BX  length, up to 32, of the match at R8; DX where it is from
//
// At loop, the positions before R8 have tokens and are counted, and those up to R8 are
// entered. The loop always looks up R8+1 as well, before it knows whether it has to: both
// measurements overlap, and one branch decides between a literal and a match. Buckets are
// at first as if position 0 was entered in all of them, so the loop starts at 1.
TEXT ·findLazyAVX2(SB), NOSPLIT, $8-33
	MOVQ m+0(FP), DI
	MOVQ s+8(FP), R10
	LEAQ matcher_src(DI), SI
	LEAQ matcher_tok(DI), R9
	LEAQ matcher_occurrences(DI), R12
	MOVQ matcher_n(DI), R11
	SUBQ $const_minMatch, R11
	XORL R8, R8
	MOVQ R8, holes-8(SP)
	VPXOR Y0, Y0, Y0
zero:
	VMOVDQU Y0, (R12)(R8*2)
	VMOVDQU Y0, 32(R12)(R8*2)
	VMOVDQU Y0, 64(R12)(R8*2)
	VMOVDQU Y0, 96(R12)(R8*2)
	ADDQ $64, R8
	CMPQ R8, $(1<<const_hashBits)
	JLT  zero
	XORL R8, R8
	LITERAL
	MOVL $1, R8
	MOVL $const_quietAfter, R14
	MOVQ R14, R13
	CMPQ R13, R11
	CMOVQGT R11, R13

first:
	LOOKUP(0)
	MOVL AX, BX
	MOVL CX, DX

loop:
	LOOKUP(1)
	MOVL $const_minMatch, R15
	CMPL AX, R15
	CMOVLGT AX, R15
	CMPL BX, R15
	JGE  match
	LITERAL
	INCQ R8
	CMPQ R8, R13
	JGT  limit
next:
	MOVL AX, BX
	MOVL CX, DX
	JMP  loop

limit:
	CMPQ R8, R11
	JGT  done
quiet:
	CMPL BX, $const_minMatch
	JGE  next                        // a literal before a longer match
	MOVQ R8, BX
	SUBQ R14, BX
	SHRQ $const_quietShift, BX
	JEQ  next
	MOVL $const_quietMost, AX
	CMPQ BX, AX
	CMOVQGT AX, BX
	ADDQ R8, BX
	CMPQ BX, matcher_n(DI)
	CMOVQGT matcher_n(DI), BX
	LEAQ matcher_tok(DI)(R8*4), AX
	CMPQ AX, R9
	JEQ  leave
skip:
	LITERAL
	INCQ R8
	CMPQ R8, BX
	JLT  skip
	CMPQ R8, R11
	JLE  first
	JMP  done
leave:
	LEAQ matcher_tok(DI)(BX*4), R9
	MOVQ BX, R8
	MOVQ $1, holes-8(SP)
	CMPQ R8, R11
	JLE  first
	JMP  done

match:
	CMPQ holes-8(SP), $0
	JNE  fill
filled:
	CMPL BX, $const_lazyMeasure
	JEQ  extend
measured:
	MOVQ matcher_n(DI), CX
	SUBQ R8, CX
	CMPQ BX, CX
	CMOVQGT CX, BX
	NOTL DX
	ADDL R8, DX                      // distance less 1
	LEAL -3(BX), AX
	MOVL AX, CX
	SHLL $const_lengthShift, CX
	ORL  DX, CX
	BTSL $31, CX
	MOVL CX, (R9)
	ADDQ $4, R9
	LEAQ ·lengthParts(SB), CX
	MOVWLZX lengthPart_symbol(CX)(AX*4), AX
	INCL weights_litLen(R10)(AX*4)
	MOVL DX, AX
	ORL  $3, AX
	BSRL AX, CX
	DECL CX
	SHRXL CX, DX, AX
	LEAL (AX)(CX*2), AX
	INCL weights_distance(R10)(AX*4)
	// Enter what the match covers. R8 and R8+1 are entered.
	ADDQ R8, BX                      // end of the match
	LEAQ (SI)(BX*1), R15
	CMPQ BX, $const_enterLeast
	JLT  few
	ADDQ $(2+const_enterLeast), R8
	CMPQ R8, BX
	JLT  many
	ENTER8(-8)
	MOVQ BX, R8
entered:
	LEAQ const_quietAfter(R8), R14
	MOVQ R14, R13
	CMPQ R13, R11
	CMOVQGT R11, R13
	CMPQ R8, R11
	JLE  first

done:
	VZEROUPPER
	MOVQ R8, pos+16(FP)
	LEAQ matcher_tok(DI), AX
	SUBQ AX, R9
	SHRQ $2, R9
	MOVQ R9, ntok+24(FP)
	MOVQ holes-8(SP), AX
	MOVB AX, holes+32(FP)
	RET

extend:
	LEAQ (SI)(DX*1), AX
	LEAQ (SI)(R8*1), CX
more:
	VMOVDQU (AX)(BX*1), Y0
	VPCMPEQB (CX)(BX*1), Y0, Y0
	VPMOVMSKB Y0, R15
	NOTL R15
	TZCNTL R15, R15
	ADDQ R15, BX
	CMPL R15, $32
	JNE  stop
	CMPQ BX, $const_maxMatch
	JLT  more
stop:
	MOVL $const_maxMatch, AX
	CMPQ BX, AX
	CMOVQGT AX, BX
	JMP  measured

fill:
	MOVQ $0, holes-8(SP)
	VPXOR Y0, Y0, Y0
	XORL AX, AX
clear:
	VMOVDQU Y0, weights_litLen(R10)(AX*1)
	ADDQ $32, AX
	CMPQ AX, $1024
	JLT  clear
	XORL AX, AX
literal:
	MOVBLZX (SI)(AX*1), CX
	MOVL CX, matcher_tok(DI)(AX*4)
	INCL weights_litLen(R10)(CX*4)
	INCQ AX
	CMPQ AX, R8
	JLT  literal
	JMP  filled

	// Eight positions at a time from R8-8 on, and at last the last eight.
many:
	MOVQ BX, DX
	MOVQ R8, BX
eight:
	LEAQ (SI)(BX*1), R15
	ENTER8(-8)
	ADDQ $8, BX
	CMPQ BX, DX
	JLT  eight
	MOVQ DX, BX
	LEAQ (SI)(BX*1), R15
	ENTER8(-8)
	MOVQ BX, R8
	JMP  entered

	// All positions from 0 on.
few:
	MOVQ BX, R8
	XORL BX, BX
	MOVQ SI, R15
one:
	ENTER(0)
	INCQ R15
	INCQ BX
	CMPQ BX, R8
	JLT  one
	JMP  entered
