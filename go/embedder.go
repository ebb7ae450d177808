package bge

// #include <bge.h>
import "C"

import (
	"fmt"
	"io"
	"runtime"
	"time"
)

// Role says what texts are, which decides instruction and length.
type Role uint32

// The roles of bge_text_role.
const (
	Plain   Role = C.BGE_TEXT_ROLE_NONE
	Query   Role = C.BGE_TEXT_ROLE_QUERY
	Passage Role = C.BGE_TEXT_ROLE_PASSAGE
)

// Embedder turns texts into vectors, for any number of goroutines at once.
type Embedder struct{ ptr *C.bge_embedder }

var _ io.Closer = (*Embedder)(nil)

// OpenEmbedder opens the model that settings of kind Embed name.
func OpenEmbedder(config *Config) (*Embedder, error) {
	if config.ptr == nil {
		return nil, ErrClosed
	}
	var ptr *C.bge_embedder
	var e *C.bge_error
	err := check(C.bge_embedder_open(config.ptr, &ptr, &e), e)
	runtime.KeepAlive(config)
	if err != nil {
		return nil, err
	}
	born()
	embedder := &Embedder{ptr}
	runtime.SetFinalizer(embedder, func(x *Embedder) { x.Close() })
	return embedder, nil
}

// Coalesce joins small requests of several goroutines; call it before they start. maxWait is a second at most.
func (x *Embedder) Coalesce(maxBatch int, maxWait time.Duration) error {
	if x.ptr == nil {
		return ErrClosed
	}
	if maxBatch < 0 || maxWait < 0 || maxWait > time.Second {
		return &Error{Status: ErrInvalidArgument.Status, Field: "maxBatch, maxWait",
			Message: fmt.Sprintf("batches of %d after %v: a batch has at least one text and waits from 0 to 1s", maxBatch, maxWait)}
	}
	var e *C.bge_error
	err := check(C.bge_embedder_coalesce(x.ptr, C.size_t(maxBatch), C.uint32_t(maxWait.Microseconds()), &e), e)
	runtime.KeepAlive(x)
	return err
}

// Dim is how many numbers a vector has; 0 when closed.
func (x *Embedder) Dim() int {
	dim := int(C.bge_embedder_dim(x.ptr))
	runtime.KeepAlive(x)
	return dim
}

// Encode gives one row of Dim numbers for each text.
func (x *Embedder) Encode(role Role, texts ...string) ([][]float32, error) {
	if x.ptr == nil {
		return nil, ErrClosed
	}
	if len(texts) == 0 {
		return nil, nil
	}
	dim := x.Dim()
	data := make([]float32, len(texts)*dim)
	l := lend(texts...)
	defer l.free()
	var e *C.bge_error
	status := C.bge_embedder_encode(x.ptr, C.uint32_t(role), l.first, l.count, (*C.float)(&data[0]), C.size_t(len(data)), &e)
	runtime.KeepAlive(x)
	if err := check(status, e); err != nil {
		return nil, err
	}
	rows := make([][]float32, len(texts))
	for i := range rows {
		rows[i] = data[i*dim : (i+1)*dim : (i+1)*dim]
	}
	return rows, nil
}

// Close frees the embedder. No call may be using it.
func (x *Embedder) Close() error {
	if x.ptr == nil {
		return nil
	}
	C.bge_embedder_free(x.ptr)
	x.ptr = nil
	died()
	runtime.SetFinalizer(x, nil)
	return nil
}
