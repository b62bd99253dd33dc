package dirty

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers and layouts are those of linux/userfaultfd.h and linux/fs.h.
const (
	uffdAPI             = 0xaa
	ioctlAPI            = 0xc018aa3f
	ioctlRegister       = 0xc020aa00
	ioctlUnregister     = 0x8010aa01
	ioctlWake           = 0x8010aa02
	ioctlWriteProtect   = 0xc018aa06
	ioctlNew            = 0xaa00 // of /dev/userfaultfd
	ioctlPagemapScan    = 0xc0606610
	registerWP          = 1 << 1
	canWriteProtect     = 1 << 6 // in the ioctls that UFFDIO_REGISTER returns
	protectOn           = 1 << 0
	userModeOnly        = 1
	featureWP           = 1 << 0
	featureWPHugeShared = 1 << 12
	featureWPAbsent     = 1 << 13
	featureWPAsync      = 1 << 15
)

// span is a range of addresses (struct uffdio_range).
type span struct{ start, size uint64 }

func spanOf(mem []byte) span {
	return span{uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))), uint64(len(mem))}
}

// descriptor is a userfaultfd.
type descriptor int

// openDescriptor creates a userfaultfd with the given features. With kernelWrites the
// descriptor also handles writes by system calls, which may need a privilege.
func openDescriptor(features uint64, kernelWrites bool) (descriptor, error) {
	flags := uintptr(unix.O_CLOEXEC | unix.O_NONBLOCK)
	if !kernelWrites {
		flags |= userModeOnly
	}
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, flags, 0, 0)
	if errno == unix.EINVAL && !kernelWrites { // the flag is new in Linux 5.11
		fd, _, errno = unix.Syscall(unix.SYS_USERFAULTFD, flags&^userModeOnly, 0, 0)
	}
	if errno == unix.EPERM && kernelWrites {
		fd, errno = openDevice(flags)
	}
	switch {
	case errno == unix.ENOSYS:
		return -1, errors.New("this kernel has no userfaultfd")
	case errno == unix.EPERM:
		return -1, errors.New("userfaultfd is not allowed (set the sysctl vm.unprivileged_userfaultfd to 1, or give access to /dev/userfaultfd)")
	case errno != 0:
		return -1, fmt.Errorf("userfaultfd: %w", errno)
	}
	d := descriptor(fd)
	api := [3]uint64{uffdAPI, features, 0}
	if err := d.ioctl(ioctlAPI, unsafe.Pointer(&api)); err != nil {
		d.close()
		return -1, fmt.Errorf("this kernel's userfaultfd lacks features %#x: %w", features, err)
	}
	return d, nil
}

// openDevice creates a userfaultfd through /dev/userfaultfd, for a process to which the
// sysctl forbids the system call.
func openDevice(flags uintptr) (uintptr, unix.Errno) {
	dev, err := unix.Open("/dev/userfaultfd", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, unix.EPERM
	}
	defer unix.Close(dev)
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(dev), ioctlNew, flags)
	return fd, errno
}

func (d descriptor) ioctl(request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d), request, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EAGAIN, unix.EINTR: // the address space is being changed
			continue
		}
		return errno
	}
}

func (d descriptor) close() error { return unix.Close(int(d)) }

// register makes the descriptor handle writes to mem.
func (d descriptor) register(mem []byte) error {
	s := spanOf(mem)
	arg := [4]uint64{s.start, s.size, registerWP, 0}
	if err := d.ioctl(ioctlRegister, unsafe.Pointer(&arg)); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return errors.New("the memory is already registered with another userfaultfd")
		}
		return fmt.Errorf("userfaultfd: registering %d bytes: %w", len(mem), err)
	}
	if arg[3]&canWriteProtect == 0 {
		return fmt.Errorf("%w: this kernel does not write-protect memory of this kind", ErrUnsupported)
	}
	return nil
}

func (d descriptor) unregister(mem []byte) error {
	s := spanOf(mem)
	return d.ioctl(ioctlUnregister, unsafe.Pointer(&s))
}

// protect write-protects a range.
func (d descriptor) protect(s span) error {
	arg := [3]uint64{s.start, s.size, protectOn}
	if err := d.ioctl(ioctlWriteProtect, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("userfaultfd: write-protecting %d bytes at %#x: %w", s.size, s.start, err)
	}
	return nil
}

// registerAll registers every block. It registers none if it fails.
func (d descriptor) registerAll(l *Log) error {
	for i, mem := range l.mem {
		if err := d.register(mem); err != nil {
			for _, done := range l.mem[:i] {
				d.unregister(done)
			}
			return fmt.Errorf("RAM block %q: %w", l.layout.Blocks[i].Name, err)
		}
	}
	return nil
}

func (d descriptor) unregisterAll(l *Log) error {
	var errs []error
	for i, mem := range l.mem {
		if err := d.unregister(mem); err != nil {
			errs = append(errs, fmt.Errorf("lifting the protection of RAM block %q: %w", l.layout.Blocks[i].Name, err))
		}
	}
	return errors.Join(errs...)
}

// Support reports which modes the kernel supports.
type Support struct {
	// Async and Sync are nil if the kernel supports the mode. Otherwise they
	// say what is missing.
	Async, Sync error
}

// Probe tries both modes on a page of its own.
func Probe() Support { return Support{Async: probeAsync(), Sync: probeSync()} }

// probed calls try with a page that is registered with a new descriptor.
func probed(features uint64, kernelWrites bool, try func(descriptor, []byte) error) error {
	d, err := openDescriptor(features, kernelWrites)
	if err != nil {
		return err
	}
	defer d.close()
	mem, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer unix.Munmap(mem)
	if err := d.register(mem); err != nil {
		return err
	}
	if err := try(d, mem); err != nil {
		return err
	}
	return d.unregister(mem)
}
