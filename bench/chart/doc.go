// Package chart draws benchmark charts as SVG: grouped bars and lines.
//
// It knows nothing about what it draws. A [Bars] or a [Lines] is filled in and
// written; the picture is as wide as a page of documentation (760 units) and
// can be read on a light and on a dark page, since it brings its background and
// follows the reader's colour scheme. Series differ in colour and, as lines, in
// their dashes too.
//
// Equal charts give equal bytes, so a chart can be kept under version control.
//
// Texts are escaped. Their width is estimated, not measured: a font that is
// much wider than usual makes them overlap.
package chart
