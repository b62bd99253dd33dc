package multifd

import (
	"io"
	"net"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vectorWriter writes the vectors of a packet with writev, through the
// syscall.RawConn of a connection: a connection that wraps a socket and hands
// out a RawConn of its own sees every writev, which net.Buffers would hide from
// it. Other connections (TLS, tests) get a Write for each vector.
type vectorWriter struct {
	w    io.Writer
	raw  syscall.RawConn
	iov  []unix.Iovec
	left int // first vector of iov that is not written yet
	n    int
	err  error
	step func(fd uintptr) bool
}

func newVectorWriter(w io.Writer) *vectorWriter {
	v := &vectorWriter{w: w}
	if sc, ok := w.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			v.raw = raw
			v.step = v.writevOnce // made once: a closure for each call would be an allocation a packet
		}
	}
	return v
}

// write writes all of bufs, and consumes them where the connection has no
// descriptor.
func (v *vectorWriter) write(bufs *net.Buffers) (written int64, err error) {
	if v.raw == nil {
		return bufs.WriteTo(v.w)
	}
	v.iov, v.left = v.iov[:0], 0
	for _, b := range *bufs {
		if len(b) > 0 {
			one := unix.Iovec{Base: unsafe.SliceData(b)}
			one.SetLen(len(b))
			v.iov = append(v.iov, one)
		}
	}
	for v.left < len(v.iov) {
		if err = v.raw.Write(v.step); err == nil {
			err = v.err
		}
		if err != nil {
			break
		}
		written += int64(v.n)
		v.advance()
	}
	clear(v.iov) // hold on to no memory of the caller's
	runtime.KeepAlive(bufs)
	return written, err
}

// writevOnce is one writev; it says false to be called again when the
// descriptor is writable.
func (v *vectorWriter) writevOnce(fd uintptr) bool {
	iov := v.iov[v.left:]
	if len(iov) > maxVectors {
		iov = iov[:maxVectors]
	}
	for {
		n, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
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

// advance takes the bytes of the last writev off the vectors.
func (v *vectorWriter) advance() {
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
