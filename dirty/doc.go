// Package dirty logs which pages of this process's memory are written. Its logs are a
// guest.DirtyLog for a program whose guest memory is ordinary memory, mapped by mmap.
// A VMM that runs its guest in KVM uses KVM's log instead, and needs only Marks, for
// the writes of its own devices.
//
// [Log] makes the kernel write-protect the pages through userfaultfd. In the mode
// [Async] (Linux 6.7) the kernel lifts the protection at the first write of a page.
// The ioctl PAGEMAP_SCAN then reports the written pages and protects them again, in
// one step. In the mode [Sync] (Linux 5.7) the first write of each page waits for a
// thread of this package, which costs several times as much. [Probe] reports which
// modes the kernel supports.
//
// [Marks] needs no kernel support: the program marks the pages that it writes.
//
// Traps of Log:
//
//   - The unit is a page of the kernel: 4 KiB, or a whole huge page of hugetlb. The
//     first write to a transparent huge page splits the page.
//   - A Log misses writes of another process through its own mapping, and writes of a
//     device to memory that was pinned before Start.
//   - The memory must not be unmapped between Start and Stop.
//   - A discarded page is dirty, in both modes. That covers MADV_DONTNEED of anonymous
//     memory, MADV_REMOVE of file memory (memfd, shared memory, hugetlb), and a hole
//     that any process punches. A Log finds a discarded page of a file by its hole. A
//     read of the page before the next Collect fills the hole with zeros, and the
//     Log then misses the page. An owner that discards memory which is still read (a
//     balloon) must therefore also mark the pages in [Marks], joined by
//     guest.JoinLogs. Before Linux 5.13 the mode Sync misses all discarded pages. The
//     search for discarded pages adds about 2 ms to a Collect for each GiB of file
//     memory and worker. In the mode Async it adds nothing for anonymous memory.
//   - A Log misses bytes that a system call writes to a file (write, or a punched hole
//     that ends inside a page), because they do not go through a mapping.
//   - A process can have one started Log of a memory at a time.
package dirty
