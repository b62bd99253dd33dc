// Package deflate builds Huffman tables: the symbol alphabets of RFC 1951,
// length-limited codes from a histogram, and the header of a dynamic block. It is used
// by the driver, which builds tables for version 1 devices, and by the device model,
// which builds them itself for version 2. It neither compresses nor inflates.
package deflate
