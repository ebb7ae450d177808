package bge

// #include <bge.h>
import "C"

import (
	"errors"
	"unsafe"
)

// Status is the kind of an error; its numbers are those of bge_status.
type Status uint32

// Errors to compare with: errors.Is(err, bge.ErrInvalidData).
var (
	ErrNullPointer     = &Error{Status: 1, Message: "null pointer"}
	ErrInvalidArgument = &Error{Status: 2, Message: "invalid argument"}
	ErrUnknownFlag     = &Error{Status: 3, Message: "unknown flag"}
	ErrInvalidConfig   = &Error{Status: 4, Message: "invalid settings"}
	ErrInvalidData     = &Error{Status: 5, Message: "invalid data"}
	ErrNotFound        = &Error{Status: 6, Message: "not found"}
	ErrIO              = &Error{Status: 7, Message: "input or output failed"}
	ErrModelFormat     = &Error{Status: 8, Message: "damaged model"}
	ErrTokenizer       = &Error{Status: 9, Message: "tokenizer"}
	ErrNotFinite       = &Error{Status: 13, Message: "not finite"}
	ErrCancelled       = &Error{Status: 14, Message: "cancelled"}
	ErrUnsupported     = &Error{Status: 15, Message: "unsupported"}
	ErrPoisoned        = &Error{Status: 16, Message: "poisoned"}
	ErrPanic           = &Error{Status: 17, Message: "panic"}
	// ErrClosed is the error of every call on a closed object.
	ErrClosed = errors.New("bge: closed")
)

// Error says what went wrong and where.
type Error struct {
	Status  Status
	Message string
	// Path is the file or folder it is about, or empty.
	Path string
	// Field is the setting or parameter it is about, or empty.
	Field string
	// Line counts from 1; 0 where there is none.
	Line uint64
	// Issues lists everything that is wrong with settings, as a JSON array.
	Issues string
}

// Error is the whole message.
func (e *Error) Error() string { return "bge: " + e.Message }

// Is compares by status.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Status == e.Status
}

// check makes an error of a status and frees the C one.
func check(status C.bge_status, e *C.bge_error) error {
	if status == C.BGE_STATUS_OK {
		return nil
	}
	defer C.bge_error_free(e)
	return &Error{
		Status:  Status(status),
		Message: goString(C.bge_error_message(e)),
		Path:    goString(C.bge_error_path(e)),
		Field:   goString(C.bge_error_field(e)),
		Line:    uint64(C.bge_error_line(e)),
		Issues:  goString(C.bge_error_issues(e)),
	}
}

func goString(text C.bge_str) string {
	return C.GoStringN((*C.char)(unsafe.Pointer(text.data)), C.int(text.len))
}

// takeText copies a text of C's and frees it.
func takeText(text *C.bge_text) string {
	defer C.bge_text_free(text)
	return goString(C.bge_text_view(text))
}
