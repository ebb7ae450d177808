package bge

/*
#include <bge.h>
extern bool bgeGoEvent(void *user_data, bge_event *event);

static bool hear(void *user_data, const bge_event *event) { return bgeGoEvent(user_data, (bge_event *)event); }

// A handle of Go's crosses as a number: it is no pointer, and C does not follow it.
static bge_status train(const bge_trainer *t, uintptr_t data, bge_text **out, bge_error **e) {
    return bge_trainer_run(t, hear, (void *)data, out, e);
}
static bge_status work(int which, const bge_config *c, uintptr_t data, bge_text **out, bge_error **e) {
    switch (which) {
    case 0: return bge_validate(c, hear, (void *)data, out, e);
    case 1: return bge_mine(c, hear, (void *)data, out, e);
    case 2: return bge_score(c, hear, (void *)data, out, e);
    case 3: return bge_evaluate(c, hear, (void *)data, out, e);
    default: return bge_merge(c, hear, (void *)data, out, e);
    }
}
static bge_status pipeline(bge_str text, uintptr_t data, bge_text **out, bge_error **e) {
    return bge_pipeline(text, hear, (void *)data, out, e);
}
*/
import "C"

import (
	"context"
	"encoding/json"
	"runtime"
	"runtime/cgo"
	"unsafe"
)

// EventKind says what an event is about.
type EventKind uint32

// The kinds of bge_event_kind.
const (
	Note      EventKind = C.BGE_EVENT_KIND_NOTE
	Begin     EventKind = C.BGE_EVENT_KIND_BEGIN
	Progress  EventKind = C.BGE_EVENT_KIND_PROGRESS
	Step      EventKind = C.BGE_EVENT_KIND_STEP
	Log       EventKind = C.BGE_EVENT_KIND_LOG
	Evaluated EventKind = C.BGE_EVENT_KIND_EVALUATED
	Saved     EventKind = C.BGE_EVENT_KIND_SAVED
	Done      EventKind = C.BGE_EVENT_KIND_DONE
)

// Event is something that happened. JSON holds its details.
type Event struct {
	Kind        EventKind
	Stage, JSON string
	Done, Total uint64
}

// Listener hears events and answers true to go on; nil hears nothing.
type Listener func(Event) bool

// hearing is what a callback needs; a panic of the listener is raised again once C has returned.
type hearing struct {
	ctx      context.Context
	listener Listener
	panicked any
}

//export bgeGoEvent
func bgeGoEvent(data unsafe.Pointer, event *C.bge_event) (goOn C.bool) {
	h := cgo.Handle(uintptr(data)).Value().(*hearing)
	defer func() {
		if p := recover(); p != nil {
			h.panicked, goOn = p, false
		}
	}()
	if h.ctx.Err() != nil || h.panicked != nil {
		return false
	}
	if h.listener == nil {
		return true
	}
	return C.bool(h.listener(Event{
		Kind: EventKind(event.kind), Stage: goString(event.stage), JSON: goString(event.json),
		Done: uint64(event.done), Total: uint64(event.total),
	}))
}

func listen(ctx context.Context, listener Listener, call func(C.uintptr_t, **C.bge_text, **C.bge_error) C.bge_status) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	h := &hearing{ctx: ctx, listener: listener}
	handle := cgo.NewHandle(h)
	defer handle.Delete()
	var out *C.bge_text
	var e *C.bge_error
	err := check(call(C.uintptr_t(handle), &out, &e), e)
	if h.panicked != nil {
		C.bge_text_free(out)
		panic(h.panicked)
	}
	if err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", err
	}
	return takeText(out), nil
}

func work(ctx context.Context, which int, config *Config, listener Listener) (string, error) {
	if config.ptr == nil {
		return "", ErrClosed
	}
	defer runtime.KeepAlive(config)
	return listen(ctx, listener, func(data C.uintptr_t, out **C.bge_text, e **C.bge_error) C.bge_status {
		return C.work(C.int(which), config.ptr, data, out, e)
	})
}

// RunValidate checks the training data of settings of kind Finetune or FinetuneReranker; the report is JSON. Bad data is no error.
func RunValidate(ctx context.Context, config *Config, listener Listener) (string, error) {
	return work(ctx, 0, config, listener)
}

// RunMine mines hard negatives; the report is JSON. A cancelled run goes on where it was when it is called again.
func RunMine(ctx context.Context, config *Config, listener Listener) (string, error) {
	return work(ctx, 1, config, listener)
}

// RunScore adds a teacher's scores; the report is JSON. A cancelled run goes on where it was when it is called again.
func RunScore(ctx context.Context, config *Config, listener Listener) (string, error) {
	return work(ctx, 2, config, listener)
}

// RunEvaluate measures retrieval; the report is JSON. The context counts only before it starts.
func RunEvaluate(ctx context.Context, config *Config, listener Listener) (string, error) {
	return work(ctx, 3, config, listener)
}

// RunMerge merges models; the report is JSON. The context counts only before it starts.
func RunMerge(ctx context.Context, config *Config, listener Listener) (string, error) {
	return work(ctx, 4, config, listener)
}

// RunPipeline runs the text of a pipeline file; the report is JSON.
func RunPipeline(ctx context.Context, text string, listener Listener) (string, error) {
	l := lend(text)
	defer l.free()
	return listen(ctx, listener, func(data C.uintptr_t, out **C.bge_text, e **C.bge_error) C.bge_status {
		return C.pipeline(l.at(0), data, out, e)
	})
}

// Train runs a training to its end; the report is JSON. When ctx is cancelled, the run ends after the present step with a
// checkpoint, and the error is ctx's.
func Train(ctx context.Context, config *Config, listener Listener) (string, error) {
	if config.ptr == nil {
		return "", ErrClosed
	}
	var trainer *C.bge_trainer
	var e *C.bge_error
	err := check(C.bge_trainer_new(config.ptr, &trainer, &e), e)
	runtime.KeepAlive(config)
	if err != nil {
		return "", err
	}
	defer C.bge_trainer_free(trainer)
	ended, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		select {
		case <-ctx.Done():
			C.bge_trainer_stop(trainer)
		case <-ended:
		}
	}()
	defer func() { close(ended); <-gone }() // nobody stops what is being freed
	report, err := listen(ctx, listener, func(data C.uintptr_t, out **C.bge_text, e **C.bge_error) C.bge_status {
		return C.train(trainer, data, out, e)
	})
	if err == nil && ctx.Err() != nil {
		return report, ctx.Err()
	}
	return report, err
}

// quote writes a text as JSON.
func quote(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil { // never for a string
		panic(err)
	}
	return string(quoted)
}
