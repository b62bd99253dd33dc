#include "textflag.h"

// System calls of linux/amd64.
#define SYS_read 0
#define SYS_poll 7
#define SYS_ioctl 16
#define SYS_clone 56
#define SYS_exit 60

// CLONE_VM|FS|FILES|SIGHAND|THREAD|SYSVSEM|CHILD_CLEARTID
#define cloneFlags 0x250f00

// Offsets in struct watch, which R12 points to.
#define pollStop 14
#define fd 16
#define blocks 24
#define protect 32
#define running 56
#define sequence 64
#define message 72
#define table 128

#define EVENT_PAGEFAULT 0x12
#define UFFDIO_WRITEPROTECT 0xc018aa06
#define UFFDIO_WAKE 0x8010aa02

// func startWatcher(w *watch) (errno uintptr)
//
// The new thread never returns to Go. Its stack is the page below w, but it uses
// only registers.
TEXT ·startWatcher(SB), NOSPLIT, $0-16
	MOVQ w+0(FP), R12
	MOVL $SYS_clone, AX
	MOVL $cloneFlags, DI
	MOVQ R12, SI
	XORL DX, DX
	LEAQ running(R12), R10
	XORL R8, R8
	SYSCALL
	TESTQ AX, AX
	JZ   wait
	JS   failed
	XORL AX, AX
	MOVQ AX, errno+8(FP)
	RET

failed:
	NEGQ AX
	MOVQ AX, errno+8(FP)
	RET

	// Wait for a write to a protected page, or for stopFD.
wait:
	MOVL $SYS_poll, AX
	MOVQ R12, DI
	MOVL $2, SI
	MOVQ $-1, DX
	SYSCALL
	MOVWLZX pollStop(R12), AX
	TESTL AX, AX
	JNZ  end

next:
	MOVL $SYS_read, AX
	MOVQ fd(R12), DI
	LEAQ message(R12), SI
	MOVL $32, DX
	SYSCALL
	CMPQ AX, $32
	JNE  wait
	CMPB message(R12), $EVENT_PAGEFAULT
	JNE  next
	MOVQ (message+16)(R12), R13

	// Find the block of the address.
	LEAQ table(R12), R8
	MOVQ blocks(R12), R9

find:
	TESTQ R9, R9
	JZ   next
	CMPQ R13, 0(R8)
	JCS  other
	CMPQ R13, 8(R8)
	JCS  found

other:
	ADDQ $40, R8
	DECQ R9
	JMP  find

found:
	MOVQ 24(R8), DX  // the page's bytes
	MOVQ DX, AX
	NEGQ AX
	ANDQ AX, R13
	MOVQ R13, protect(R12)
	MOVQ DX, (protect+8)(R12)
	MOVQ $0, (protect+16)(R12)
	MOVQ R13, R15
	SUBQ 0(R8), R15
	MOVQ 32(R8), CX  // log2 of the page's bytes
	SHRQ CX, R15
	MOVQ 16(R8), R13 // the bitmap

	// The sequence is odd from the first setting of the page's bit to the second.
	// collect in sync.go explains why the thread sets the bit twice.
	LOCK
	INCQ sequence(R12)
	LOCK
	BTSQ R15, 0(R13)
	MOVL $SYS_ioctl, AX
	MOVQ fd(R12), DI
	MOVL $UFFDIO_WRITEPROTECT, SI
	LEAQ protect(R12), DX
	SYSCALL
	TESTQ AX, AX
	JZ   noted

	// The ioctl failed, because the address space is changing. Wake the writer,
	// which writes again.
	MOVL $SYS_ioctl, AX
	MOVQ fd(R12), DI
	MOVL $UFFDIO_WAKE, SI
	LEAQ protect(R12), DX
	SYSCALL

noted:
	LOCK
	BTSQ R15, 0(R13)
	LOCK
	INCQ sequence(R12)
	JMP  next

end:
	MOVL $SYS_exit, AX
	XORL DI, DI
	SYSCALL
	INT  $3
