// What the kernels that go through tokens 16 at a time have in common. Z0 holds
// the tokens.
//
//	Z31 0xff   Z27 1    Z25 0xfff   Z24 255   Z18 29   Z6 0
//	Z17 low half of each quadword   Z13 7 and Z14 7, by quadwords

#define CONST(v, r) \
	MOVL $v, AX         \
	VPBROADCASTD AX, r

#define TOKEN_CONSTS \
	CONST(0xff, Z31)              \
	CONST(1, Z27)                 \
	CONST(0xfff, Z25)             \
	CONST(255, Z24)               \
	CONST(29, Z18)                \
	VPXORQ Z6, Z6, Z6             \
	VPTERNLOGD $0xff, Z17, Z17, Z17 \
	VPSRLQ $61, Z17, Z13          \
	VMOVDQA64 Z13, Z14            \
	VPSRLQ $32, Z17, Z17

// SPLIT_LENGTH is lengthSymbol: symbol in Z8, extra bits in Z5, their value in
// Z9. It uses Z4, Z7 and K3.
#define SPLIT_LENGTH \
	VPSRLD $const_lengthShift, Z0, Z4 \
	VPANDD Z31, Z4, Z4           \
	VPLZCNTD Z4, Z5              \
	VPSUBD Z5, Z18, Z5           \
	VPMAXSD Z6, Z5, Z5           \
	VPSRLVD Z5, Z4, Z7           \
	VPSLLD $2, Z5, Z8            \
	VPADDD Z7, Z8, Z8            \
	VPADDD Z27, Z8, Z8           \
	VPSLLVD Z5, Z7, Z9           \
	VPSUBD Z9, Z4, Z9            \
	VPCMPEQD Z24, Z4, K3         \
	VMOVDQA32 Z18, K3, Z8        \
	VMOVDQA32 Z6, K3, Z9         \
	VMOVDQA32 Z6, K3, Z5

// SPLIT_DISTANCE is distanceSymbol: symbol in Z10, extra bits in Z12, their
// value in Z11. It uses Z4 and Z7.
#define SPLIT_DISTANCE \
	VPANDD Z25, Z0, Z4           \
	VPLZCNTD Z4, Z12             \
	VPSUBD Z12, Z18, Z12         \
	VPADDD Z27, Z12, Z12         \
	VPMAXSD Z6, Z12, Z12         \
	VPSRLVD Z12, Z4, Z7          \
	VPADDD Z12, Z12, Z10         \
	VPADDD Z7, Z10, Z10          \
	VPSLLVD Z12, Z7, Z11         \
	VPSUBD Z11, Z4, Z11

// ENDS sets Z4 to where each of eight groups of bits ends, counted in bits from
// the start of the output, and Z5 to where it starts, given the number of bits in Z3 and
// the start of the first in all of Z16, which becomes the end of the last.
#define ENDS \
	VALIGNQ $7, Z6, Z3, Z4       \
	VPADDQ Z3, Z4, Z4            \
	VALIGNQ $6, Z6, Z4, Z5       \
	VPADDQ Z5, Z4, Z4            \
	VALIGNQ $4, Z6, Z4, Z5       \
	VPADDQ Z5, Z4, Z4            \
	VPADDQ Z16, Z4, Z4           \
	VPSUBQ Z3, Z4, Z5            \
	VPERMQ Z4, Z14, Z16

// BUFFER sets R12 to 128 bytes of the frame, which has 192. They do not cross cache lines: each
// vector that does costs twice.
#define BUFFER \
	LEAQ 63(SP), R12       \
	ANDQ $-64, R12

// PLACE stores quadword i of those at 0(R12) where 64(R12) says. It leaves up to
// seven bytes of nonsense behind itself, which the next one covers.
#define PLACE(i) \
	MOVQ (8*i)(R12), AX     \
	MOVQ (64+8*i)(R12), DX  \
	MOVQ AX, (DI)(DX*1)

#define PLACE8 \
	VMOVDQU64 Z2, 0(R12)    \
	VMOVDQU64 Z5, 64(R12)   \
	PLACE(0)               \
	PLACE(1)               \
	PLACE(2)               \
	PLACE(3)               \
	PLACE(4)               \
	PLACE(5)               \
	PLACE(6)               \
	PLACE(7)
