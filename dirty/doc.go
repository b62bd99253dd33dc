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
//   - Memory may not be unmapped between Start and Stop. Discarding it
//     (MADV_DONTNEED) counts as writing in the mode Async, and goes unseen in
//     the mode Sync.
//   - One process can log a memory once at a time.
package dirty
