package bge

// #include <bge.h>
import "C"

import (
	"io"
	"runtime"
)

// Reranker turns pairs of query and passage into scores, for any number of goroutines at once.
type Reranker struct{ ptr *C.bge_reranker }

var _ io.Closer = (*Reranker)(nil)

// OpenReranker opens the model that settings of kind Rerank name.
func OpenReranker(config *Config) (*Reranker, error) {
	if config.ptr == nil {
		return nil, ErrClosed
	}
	var ptr *C.bge_reranker
	var e *C.bge_error
	err := check(C.bge_reranker_open(config.ptr, &ptr, &e), e)
	runtime.KeepAlive(config)
	if err != nil {
		return nil, err
	}
	born()
	reranker := &Reranker{ptr}
	runtime.SetFinalizer(reranker, func(x *Reranker) { x.Close() })
	return reranker, nil
}

// Score gives one score for each passage.
func (x *Reranker) Score(query string, passages ...string) ([]float32, error) {
	if x.ptr == nil {
		return nil, ErrClosed
	}
	if len(passages) == 0 {
		return nil, nil
	}
	queries := make([]string, len(passages))
	for i := range queries {
		queries[i] = query
	}
	q, p := lend(queries...), lend(passages...)
	defer q.free()
	defer p.free()
	scores := make([]float32, len(passages))
	var e *C.bge_error
	status := C.bge_reranker_score(x.ptr, q.first, p.first, q.count, (*C.float)(&scores[0]), C.size_t(len(scores)), &e)
	runtime.KeepAlive(x)
	if err := check(status, e); err != nil {
		return nil, err
	}
	return scores, nil
}

// Close frees the reranker. No call may be using it.
func (x *Reranker) Close() error {
	if x.ptr == nil {
		return nil
	}
	C.bge_reranker_free(x.ptr)
	x.ptr = nil
	died()
	runtime.SetFinalizer(x, nil)
	return nil
}
