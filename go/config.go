// Package bge fine-tunes and serves BGE text-embedding models through libbge.
//
// Objects hold memory that Go's collector does not see: Close them. A finalizer closes what was forgotten. Any number of
// goroutines may encode and score at once; nobody may use an object while it is closed. With -tags bge_debug the package counts
// them: LiveObjects.
package bge

// #include <bge.h>
import "C"

import (
	"io"
	"runtime"
	"strings"
)

// Kind says which command settings are for.
type Kind uint32

// The kinds of bge_config_kind.
const (
	Finetune         Kind = C.BGE_CONFIG_KIND_FINETUNE
	FinetuneReranker Kind = C.BGE_CONFIG_KIND_FINETUNE_RERANKER
	Embed            Kind = C.BGE_CONFIG_KIND_EMBED
	Rerank           Kind = C.BGE_CONFIG_KIND_RERANK
	Mine             Kind = C.BGE_CONFIG_KIND_MINE
	Score            Kind = C.BGE_CONFIG_KIND_SCORE
	Evaluate         Kind = C.BGE_CONFIG_KIND_EVALUATE
	Merge            Kind = C.BGE_CONFIG_KIND_MERGE
)

// Format is a form of settings as text.
type Format uint32

// The formats of bge_format: File and Flags and CommandLine are read; Flags, CommandLine, TOML and JSON are written.
const (
	File        Format = C.BGE_FORMAT_FILE
	Flags       Format = C.BGE_FORMAT_FLAGS
	CommandLine Format = C.BGE_FORMAT_COMMAND_LINE
	TOML        Format = C.BGE_FORMAT_TOML
	JSON        Format = C.BGE_FORMAT_JSON
)

// Config holds settings of one command, by name. One goroutine at a time may set.
type Config struct{ ptr *C.bge_config }

var _ io.Closer = (*Config)(nil)

// Version is the version of the library.
func Version() string { return goString(C.bge_version()) }

func newConfig(ptr *C.bge_config) *Config {
	C.bge_abi_1() // a library of another interface does not link
	born()
	c := &Config{ptr}
	runtime.SetFinalizer(c, func(c *Config) { c.Close() })
	return c
}

// NewConfig makes settings with their defaults.
func NewConfig(kind Kind) (*Config, error) {
	var ptr *C.bge_config
	var e *C.bge_error
	if err := check(C.bge_config_new(C.uint32_t(kind), &ptr, &e), e); err != nil {
		return nil, err
	}
	return newConfig(ptr), nil
}

// ParseConfig makes settings from text.
func ParseConfig(kind Kind, format Format, text string) (*Config, error) {
	var ptr *C.bge_config
	var e *C.bge_error
	l := lend(text)
	defer l.free()
	status := C.bge_config_parse(C.uint32_t(kind), C.uint32_t(format), l.at(0), &ptr, &e)
	if err := check(status, e); err != nil {
		return nil, err
	}
	return newConfig(ptr), nil
}

// Set sets one setting by name; several values make a list.
func (c *Config) Set(name string, values ...string) error {
	if c.ptr == nil {
		return ErrClosed
	}
	value := strings.Join(values, "")
	if len(values) > 1 {
		quoted := make([]string, len(values))
		for i, v := range values {
			quoted[i] = quote(v)
		}
		value = "[" + strings.Join(quoted, ",") + "]"
	}
	var e *C.bge_error
	l := lend(name, value)
	defer l.free()
	err := check(C.bge_config_set(c.ptr, l.at(0), l.at(1), &e), e)
	runtime.KeepAlive(c)
	return err
}

// Check checks settings against each other: {"ok": ..., "issues": [...]}.
func (c *Config) Check() (string, error) {
	return c.text(func(out **C.bge_text, e **C.bge_error) C.bge_status { return C.bge_config_check(c.ptr, out, e) })
}

// Render writes settings as text.
func (c *Config) Render(format Format) (string, error) {
	return c.text(func(out **C.bge_text, e **C.bge_error) C.bge_status {
		return C.bge_config_render(c.ptr, C.uint32_t(format), out, e)
	})
}

// Schema is every setting as JSON Schema.
func (c *Config) Schema() (string, error) {
	return c.text(func(out **C.bge_text, e **C.bge_error) C.bge_status { return C.bge_config_schema(c.ptr, out, e) })
}

func (c *Config) text(call func(**C.bge_text, **C.bge_error) C.bge_status) (string, error) {
	if c.ptr == nil {
		return "", ErrClosed
	}
	var out *C.bge_text
	var e *C.bge_error
	err := check(call(&out, &e), e)
	runtime.KeepAlive(c)
	if err != nil {
		return "", err
	}
	return takeText(out), nil
}

// Close frees the settings. What was made from them lives on.
func (c *Config) Close() error {
	if c.ptr == nil {
		return nil
	}
	C.bge_config_free(c.ptr)
	c.ptr = nil
	died()
	runtime.SetFinalizer(c, nil)
	return nil
}
