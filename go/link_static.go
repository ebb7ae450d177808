//go:build !bge_use_lib

package bge

// The default links libbge.a; CGO_LDFLAGS=-L... says where it is. The list is what the archive itself needs.

// #cgo CFLAGS: -I${SRCDIR}/../include
// #cgo linux LDFLAGS: -l:libbge.a -lpthread -ldl -lm
// #cgo darwin LDFLAGS: -lbge -framework Security -framework CoreFoundation
import "C"
