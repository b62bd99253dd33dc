package multifd

import (
	"io"
	"net"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vectorWriter writes the vectors of a packet with writev, through the syscall.RawConn
// of a connection. A connection that wraps a socket and returns its own RawConn sees
// every writev; with net.Buffers it would not. Other connections (TLS, tests) get a
// Write for each vector.
type vectorWriter struct {
	w   io.Writer
	raw syscall.RawConn
	vectors
	step func(fd uintptr) bool
}

func newVectorWriter(w io.Writer) *vectorWriter {
	v := &vectorWriter{w: w}
	if sc, ok := w.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			v.raw = raw
			v.step = v.writevOnce // one for all calls: one for each call would be an allocation a packet
		}
	}
	return v
}

// write writes all of bufs. It consumes them if the connection has no file descriptor.
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
	clear(v.iov) // keep no reference to the caller's memory
	runtime.KeepAlive(bufs)
	return written, err
}

func (v *vectorWriter) writevOnce(fd uintptr) bool { return v.once(unix.SYS_WRITEV, fd) }
