package iaa

import (
	"sync"
	"unsafe"
)

// Instructions that Go has no intrinsics for. Each may be executed only if
// hostInstructions reports it.

//go:noescape
func cpuid(leaf, sub uint32) (a, b, c, d uint32)

//go:noescape
func enqcmd(portal, d unsafe.Pointer) bool

//go:noescape
func movdir64b(dst, src unsafe.Pointer)

//go:noescape
func pause(n uint32)

//go:noescape
func umwait(word *uint32, seen uint32, cycles uint64)

func tpause(cycles uint64)

// hostInstructions reads CPUID leaf 7 once.
var hostInstructions = sync.OnceValue(func() Instructions {
	if max, _, _, _ := cpuid(0, 0); max < 7 {
		return Instructions{}
	}
	_, _, ecx, _ := cpuid(7, 0)
	return Instructions{
		ENQCMD:    ecx>>29&1 == 1,
		MOVDIR64B: ecx>>28&1 == 1,
		WAITPKG:   ecx>>5&1 == 1,
	}
})
