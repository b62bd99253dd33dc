#include "textflag.h"

// func cpuid(leaf, sub uint32) (a, b, c, d uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-24
	MOVL leaf+0(FP), AX
	MOVL sub+4(FP), CX
	CPUID
	MOVL AX, a+8(FP)
	MOVL BX, b+12(FP)
	MOVL CX, c+16(FP)
	MOVL DX, d+20(FP)
	RET

// func enqcmd(portal, d unsafe.Pointer) bool
// SFENCE orders the stores that filled the job's memory before the submission.
TEXT ·enqcmd(SB), NOSPLIT, $0-17
	MOVQ portal+0(FP), AX
	MOVQ d+8(FP), DX
	SFENCE
	// ENQCMD (DX), AX: ZF is clear if the queue accepted the descriptor.
	BYTE $0xf2; BYTE $0x0f; BYTE $0x38; BYTE $0xf8; BYTE $0x02
	SETNE ret+16(FP)
	RET

// func movdir64b(dst, src unsafe.Pointer)
TEXT ·movdir64b(SB), NOSPLIT, $0-16
	MOVQ dst+0(FP), AX
	MOVQ src+8(FP), DX
	SFENCE
	// MOVDIR64B (DX), AX
	BYTE $0x66; BYTE $0x0f; BYTE $0x38; BYTE $0xf8; BYTE $0x02
	RET

// func pause(n uint32)
TEXT ·pause(SB), NOSPLIT, $0-4
	MOVL n+0(FP), CX
again:
	PAUSE
	SUBL $1, CX
	JNE again
	RET

// func umwait(word *uint32, seen uint32, cycles uint64)
// Sleeps in C0.1 until the word's cache line is written or the cycles pass. The
// word is read again after the monitor is armed, so no write is missed.
TEXT ·umwait(SB), NOSPLIT, $0-24
	MOVQ word+0(FP), R8
	MOVL seen+8(FP), R9
	UMONITOR R8
	CMPL (R8), R9
	JNE done
	RDTSC
	SHLQ $32, DX
	ORQ DX, AX
	ADDQ cycles+16(FP), AX
	MOVQ AX, DX
	SHRQ $32, DX
	MOVL $1, BX
	UMWAIT BX
done:
	RET

// func tpause(cycles uint64)
TEXT ·tpause(SB), NOSPLIT, $0-8
	RDTSC
	SHLQ $32, DX
	ORQ DX, AX
	ADDQ cycles+0(FP), AX
	MOVQ AX, DX
	SHRQ $32, DX
	MOVL $1, BX
	TPAUSE BX
	RET
