// Package dirty knows which pages of this process's own memory were written: a
// guest.DirtyLog for a program whose guest memory is ordinary memory, mapped by
// mmap. A VMM that runs its guest by KVM has a log there, and needs of this only
// Marks, for what its own devices write.
//
// [Log] has the kernel write-protect the pages by userfaultfd. In the mode [Async]
// (Linux 6.7) it lifts the protection by itself at the first write of a page, and
// the ioctl PAGEMAP_SCAN tells which were written and protects them anew, in one
// step. In the mode [Sync] (Linux 5.7) each first write waits for a thread of
// this package, which costs several times as much. [Probe] says what a kernel
// has.
//
// [Marks] needs no kernel: whoever writes says so.
//
// Traps of Log:
//
//   - A page is one of the kernel's: 4 KiB, or all of a huge page that came from
//     hugetlb. A transparent huge page is split by the first write to it.
//   - What another process writes through a mapping of its own, and what a
//     device writes to memory that was pinned before, is not seen.
//   - Memory may not be unmapped between Start and Stop.
//   - Discarding memory counts as writing, in both modes: MADV_DONTNEED of anonymous
//     memory, and of a file's (memfd, shared memory, hugetlb) MADV_REMOVE and a hole
//     punched by any process. A page of a file is found by the hole that it leaves,
//     so one that is read again before the next Collect, which fills the hole with
//     zeros, goes unseen: an owner that discards memory which is still read (a
//     balloon) says so in [Marks] as well, joined by guest.JoinLogs. Before Linux
//     5.13 nothing of this is seen in the mode Sync. The look adds about 2 ms to a
//     Collect for each GiB of a file's memory and worker; in the mode Async
//     anonymous memory costs nothing more.
//   - Bytes that are written to a file by system calls (write, or a punched hole
//     that ends amid a page) are not seen: they go by no mapping.
//   - One process can log a memory once at a time.
package dirty
