// The body of the decoding loop. See inflate_amd64.h.

	MOVQ d+0(FP), DI
	MOVQ c+8(FP), R11
	MOVQ patterns+16(FP), R12
	MOVQ $WIDTH, width-24(SP)
	MOVQ (Decoder_in+bitReader_buf)(DI), SI
	MOVQ SI, R10
	ADDQ (Decoder_in+bitReader_limit)(DI), R10
	ADDQ (Decoder_in+bitReader_pos)(DI), SI
	MOVQ (Decoder_in+bitReader_acc)(DI), BX
	MOVQ (Decoder_in+bitReader_count)(DI), CX
	LEAQ Decoder_out(DI), AX
	MOVQ AX, R8
	ADDQ Decoder_n(DI), R8
	MOVQ AX, DX
	ADDQ Decoder_size(DI), DX
	MOVQ DX, end-32(SP)
	MOVQ AX, DI
	MOVL blockCode_notLiteral(R11), R9
	MOVL blockCode_nineBits(R11), R15
	TESTL R15, R15
	JNZ  fixed

	CHECK(input, full)
	REFILL
	LOOKUP(AX)
	JMP  start

top:
	ADDQ $4, R8
	CHECK(input, full)
	REFILL
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
	LITERAL(DX, AX, 3)
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
	REFILL
match:
	MATCH(special, before, longcopy, undo)
copied:
	CHECK(input, full)
	JMP start

	// The first five bits tell whether a symbol of the fixed code is a literal, which is
	// known sooner than its entry. So a wrong prediction costs less.
fixed:
	CHECK(input, full)
	REFILL
	LOOKUP(AX)
	JMP  fixedstart

fixedtop:
	ADDQ $4, R8
	CHECK(input, full)
	REFILL
fixedstart:
	BTL   BX, R9
	JCS   fixedmatch
	FIXEDLITERAL(AX, DX, 0)
	BTL   BX, R9
	JCS   fixedmatch1
	FIXEDLITERAL(DX, AX, 1)
	BTL   BX, R9
	JCS   fixedmatch2
	FIXEDLITERAL(AX, DX, 2)
	BTL   BX, R9
	JCS   fixedmatch3
	FIXEDLITERAL(DX, AX, 3)
	JMP   fixedtop

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
	REFILL
	REFILL
fixedmatch:
	MATCH(special, before, longcopy, undo)
	CHECK(input, full)
	JMP fixedstart

longcopy:
	// DX is the length. REPEAT has set R14 and written the first WIDTH bytes.
	ADDQ R8, DX
	SHRQ $6, R14
	CMPQ R14, $WIDTH
	JEQ  far
	MOVBLZX STEP(R12)(R14*1), R14
repeat:
	ADDQ R14, R8
	AGAIN
	CMPQ R8, DX
	JB   repeat
	MOVQ DX, R8
	JMP  copiedlong
far:
	ADDQ $WIDTH, R13
	ADDQ $WIDTH, R8
	MOVE
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
