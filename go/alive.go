//go:build !bge_debug

package bge

// With -tags bge_debug objects are counted: LiveObjects.

func born() {}
func died() {}
