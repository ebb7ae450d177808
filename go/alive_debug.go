//go:build bge_debug

package bge

import "sync/atomic"

var alive atomic.Int64

// LiveObjects is how many objects of the library have been made and not yet closed. It is there with -tags bge_debug only,
// for tests: after them and a collection it is 0, or something holds on to memory that Go's collector does not see.
func LiveObjects() int64 { return alive.Load() }

func born() { alive.Add(1) }
func died() { alive.Add(-1) }
