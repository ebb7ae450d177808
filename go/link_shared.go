//go:build bge_use_lib

package bge

// With -tags bge_use_lib the program links libbge.so, which must be there when it runs.

// #cgo CFLAGS: -I${SRCDIR}/../include
// #cgo LDFLAGS: -lbge
import "C"
