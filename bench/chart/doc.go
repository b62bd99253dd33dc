// Package chart draws benchmark charts as SVG: grouped bars and lines.
//
// The caller fills in a [Bars] or a [Lines] and calls WriteSVG. The picture is as wide as a
// page of documentation (760 units). It has its own background and follows the reader's
// colour scheme, so it is readable on light and on dark pages. Series differ in colour;
// lines differ in their dashes too.
//
// Equal charts give equal bytes, so that a chart can be kept under version control.
//
// Trap: the width of texts is estimated. Texts overlap if the font is much wider than
// usual.
package chart
