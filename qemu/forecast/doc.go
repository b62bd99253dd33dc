// Package forecast computes, before a migration, how long it would take. It has the model
// of pre-copy rounds and the statistics of sampled pages. It is for package qemu, which
// measures a machine, and knows no QEMU itself.
//
// Every figure is a range. Its low end takes the favourable end of each measured figure and
// its high end the unfavourable one.
//
// # Traps
//
//   - The model takes the machine to stay as busy as it was when it was measured.
//   - A dirty rate is no constant. A page that is written twice in a round is sent once, so
//     the bytes that a round leaves dirty grow slower than its time. A DirtyCurve bounds
//     them between and beyond the measured times.
package forecast
