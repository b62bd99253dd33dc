//go:build !noasm

#include "textflag.h"
#include "go_asm.h"

#define CODE_BITS (1<<const_codeLimit - 1)

// LITERAL sets c to the code of the literal at token i.
#define LITERAL(i, c) \
	MOVBLZX (4*i)(SI), c             \
	MOVWLZX tokenCodes_litLen(R10)(c*2), c

// SPLIT splits the code c into its bits, in c, and their number, in n.
#define SPLIT(c, n) \
	MOVL c, n                        \
	SHRL $const_codeLimit, n         \
	ANDL $CODE_BITS, c

// JOIN appends c, of m bits, to v, of n bits.
#define JOIN(v, n, c, m) \
	SHLXQ n, c, c                    \
	ORQ  c, v                        \
	ADDL m, n

// FLUSH writes v, of n bits, at most 56. It uses AX.
#define FLUSH(v, n) \
	SHLXQ R11, v, v                  \
	ORQ  v, R8                       \
	MOVQ R8, (DI)                    \
	ADDL n, R11                      \
	MOVL R11, AX                     \
	SHRL $3, AX                      \
	ADDQ AX, DI                      \
	SHLL $3, AX                      \
	SHRXQ AX, R8, R8                 \
	ANDL $7, R11

// func putTokensAVX2(dst *byte, tokens *token, n int, codes *tokenCodes, count uint, acc uint64) (size, left int, countOut uint, accOut uint64)
//
// It writes tokens as putGo does, as long as there are four. It returns the number of
// whole bytes that it wrote and the number of tokens that are left.
//
//	SI  next token      DI  next byte
//	R9  last place where four tokens start
//	R10 the codes       R8  bits that are not in whole bytes, R11 their number, up to 7
//	R14 lengthParts     X0  four tokens
//
// Each turn of the loop writes either four literals, or up to three literals and the match
// behind them. The literals of the second kind that are not there count as codes of no
// bits. So one branch decides, for four tokens.
TEXT ·putTokensAVX2(SB), NOSPLIT, $0-80
	MOVQ dst+0(FP), DI
	MOVQ tokens+8(FP), SI
	MOVQ n+16(FP), R9
	LEAQ -16(SI)(R9*4), R9
	MOVQ codes+24(FP), R10
	MOVQ count+32(FP), R11
	MOVQ acc+40(FP), R8
	LEAQ ·lengthParts(SB), R14
	CMPQ SI, R9
	JHI  done

loop:
	VMOVDQU (SI), X0
	VMOVMSKPS X0, AX
	TESTL AX, AX
	JNE  match
	LITERAL(0, AX)
	LITERAL(1, CX)
	LITERAL(2, R12)
	LITERAL(3, R15)
	SPLIT(AX, BX)
	SPLIT(CX, DX)
	SPLIT(R12, R13)
	JOIN(AX, BX, CX, DX)
	MOVL R15, DX
	SHRL $const_codeLimit, DX
	ANDL $CODE_BITS, R15
	JOIN(R12, R13, R15, DX)
	JOIN(AX, BX, R12, R13)
	MOVQ AX, CX
	FLUSH(CX, BX)
	ADDQ $16, SI
	CMPQ SI, R9
	JLS  loop
	JMP  done

match:
	TZCNTL AX, AX
	XORL R15, R15
	LITERAL(0, CX)
	LITERAL(1, R12)
	LITERAL(2, BX)
	CMPL AX, $1
	CMOVLCS R15, CX
	CMPL AX, $2
	CMOVLCS R15, R12
	CMPL AX, $3
	CMOVLCS R15, BX
	LEAQ 4(SI)(AX*4), SI
	SPLIT(CX, DX)
	SPLIT(R12, R13)
	SPLIT(BX, R15)
	JOIN(CX, DX, R12, R13)
	JOIN(CX, DX, BX, R15)
	FLUSH(CX, DX)

	// The length: bits in DX, their number in R12.
	MOVBLZX -2(SI), CX
	MOVL (R14)(CX*4), CX
	MOVWLZX CX, DX
	MOVWLZX tokenCodes_litLen(R10)(DX*2), DX
	SPLIT(DX, R12)
	MOVL CX, R13
	SHRL $24, R13
	SHRL $16, CX
	MOVBLZX CX, CX
	JOIN(DX, R12, R13, CX)
	// The distance: CX extra bits, of BX, behind the code.
	MOVWLZX -4(SI), BX
	MOVL BX, CX
	ORL  $3, CX
	BSRL CX, CX
	DECL CX
	SHRXL CX, BX, AX
	LEAL (AX)(CX*2), AX
	MOVWLZX tokenCodes_distance(R10)(AX*2), R15
	BZHIL CX, BX, BX
	SPLIT(R15, R13)
	JOIN(R15, R13, BX, CX)
	JOIN(DX, R12, R15, R13)
	FLUSH(DX, R12)
	CMPQ SI, R9
	JLS  loop

done:
	VZEROUPPER
	SUBQ dst+0(FP), DI
	MOVQ DI, size+48(FP)
	ADDQ $16, R9
	SUBQ SI, R9
	SHRQ $2, R9
	MOVQ R9, left+56(FP)
	MOVQ R11, countOut+64(FP)
	MOVQ R8, accOut+72(FP)
	RET
