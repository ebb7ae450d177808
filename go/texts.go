package bge

// #include <stdlib.h>
// #include <bge.h>
import "C"

import "unsafe"

// lent is an array of texts in C's memory: one block, so that no pointer into Go stays in C's sight.
type lent struct {
	block unsafe.Pointer
	first *C.bge_str
	count C.size_t
}

// lend copies texts; free gives the memory back.
func lend(texts ...string) lent {
	if len(texts) == 0 {
		return lent{}
	}
	head := len(texts) * int(unsafe.Sizeof(C.bge_str{}))
	size := head
	for _, text := range texts {
		size += len(text)
	}
	block := C.malloc(C.size_t(size))
	items := unsafe.Slice((*C.bge_str)(block), len(texts))
	bytes := unsafe.Slice((*byte)(block), size)
	at := head
	for i, text := range texts {
		items[i] = C.bge_str{}
		if len(text) > 0 {
			items[i].data = (*C.uint8_t)(unsafe.Pointer(&bytes[at]))
			items[i].len = C.size_t(len(text))
			at += copy(bytes[at:], text)
		}
	}
	return lent{block, &items[0], C.size_t(len(texts))}
}

func (l lent) free() { C.free(l.block) }

func (l lent) at(i int) C.bge_str { return unsafe.Slice(l.first, int(l.count))[i] }
