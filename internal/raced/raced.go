// Package raced says whether this is a build with the race detector, under which
// code takes about ten times as long. In flows the build tag, out flows a constant
// by which tests choose their sizes.
package raced

// Size is the first when the race detector watches, else the second.
func Size(raced, otherwise int) int {
	if On {
		return raced
	}
	return otherwise
}
