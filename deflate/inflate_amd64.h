// The decoding loop of all tiers of amd64. The tiers differ only in how they copy a match,
// which takes vectors. A file with a tier's routine includes this file, defines the macros
// below, and includes inflateloop_amd64.h as the body of a routine of type
//
//	func(d *Decoder, c *blockCode, patterns *copyPatterns) status
//
// with a frame of 32 bytes:
//
//	WIDTH   how many bytes a copy writes, 32 or 64
//	STEP    the offset of step in the patterns
//	REPEAT  loads WIDTH bytes from R13, a match's source that is R14 bytes before R8,
//	        repeats them if the distance is shorter than WIDTH, and stores them to R8. It
//	        sets R14 to 64 times the distance, or to 64*WIDTH if that is less.
//	AGAIN   stores the same bytes to R8 once more
//	MOVE    loads WIDTH bytes from R13 and stores them to R8
//
// The loop needs BMI1 and BMI2 besides. Its registers:
//
//	SI  next input   BX  bits             R8  next output    R11 the tables
//	R10 its limit    CX  their number,    DI  start of page  R12 patterns
//	                     in the low byte  R9, R15 notLiteral and nineBits of the fixed code
//
// AX, or DX after an odd number of literals, is the table entry of the next symbol. It was
// looked up before the last refill, which would delay it. At start and fixedstart, and at the
// beginning of MATCH, 56 bits are valid, R8 is not beyond the page's end and SI not beyond the
// limit by more than two refills. Four literals take 44 bits and a match 38, so the entry
// behind them, of 11 bits, is valid too. Every way back passes CHECK.

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
// comes next, and copies the match. All matches of up to WIDTH bytes go the same way,
// because REPEAT turns a short distance into a pattern.
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
	LOOKUP(AX)                     \
	REFILL                         \
	MOVQ  R8, R13                  \
	SUBQ  DI, R13                  \
	CMPQ  R14, R13                 \
	JHI   before                   \
	MOVQ  R8, R13                  \
	SUBQ  R14, R13                 \
	REPEAT                         \
	CMPQ  DX, $WIDTH               \
	JHI   longcopy                 \
	ADDQ  DX, R8

#define CHECK(input, full) \
	CMPQ SI, R10  \
	JHI  input    \
	CMPQ R8, end-32(SP) \
	JHI  full

