package multifd

import (
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxVectors is the kernel's limit on the vectors of one readv or writev.
const maxVectors = 1024

// vectors are what readv or writev must still move, over any number of calls.
type vectors struct {
	iov  []unix.Iovec
	left int // first vector of iov that is not complete
	n    int // bytes that the last call moved
	err  error
}

// once calls readv or writev, by its system call number. It returns false if it must be
// called again when the descriptor is ready.
func (v *vectors) once(call, fd uintptr) bool {
	iov := v.iov[v.left:]
	if len(iov) > maxVectors {
		iov = iov[:maxVectors]
	}
	for {
		n, _, errno := unix.Syscall(call, fd, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return false
		case errno != 0:
			v.n, v.err = 0, errno
		case n == 0:
			v.n, v.err = 0, io.ErrUnexpectedEOF
		default:
			v.n, v.err = int(n), nil
		}
		return true
	}
}

// advance removes the bytes of the last call from the vectors. One vector can span
// buffers that the runtime knows as separate objects, which its check of pointer
// arithmetic would reject; the caller keeps all of them alive.
//
//go:nocheckptr
func (v *vectors) advance() {
	for n := v.n; n > 0; {
		one := &v.iov[v.left]
		if n < int(one.Len) {
			one.Base = (*byte)(unsafe.Add(unsafe.Pointer(one.Base), n))
			one.SetLen(int(one.Len) - n)
			return
		}
		n -= int(one.Len)
		v.left++
	}
}
