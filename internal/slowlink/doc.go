// Package slowlink makes slow links for tests and benchmarks: a [Link] joins two network
// namespaces by a veth pair, limits its rate and takes it down; a [Proxy] delays
// connections. They need no netem, which many kernels lack.
//
// Processes run at an end of the link by [Link.Command]. Sockets of this process are made
// there inside [Link.Do].
//
// Traps: a Link needs root, ip and tc (Debian's package iproute2), and the kernel's tbf for
// a rate. Namespaces are names of the host: [Link.Close] removes them, and so does a shell
// that outlives this process if this process is killed. The rate is that of veth's queue:
// the first 256 KiB after a pause go at full speed. A delay is that of a proxy, so a TCP
// connection over the link is acknowledged before the data arrives; the proxy's window is
// what bounds the data on the way.
package slowlink
