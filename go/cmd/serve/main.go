// A search service: serve MODEL CORPUS.jsonl [ADDRESS]. Prints the port that it listens on. What it answers is what
// examples/cpp_search answers:
//
//	GET  /search?q=what+melts+ice&k=3    {"model": ..., "hits": [{"id", "score", "text"}, ...]}
//	POST /embed   {"texts": [...], "role": "query"}    {"dim": ..., "vectors": [[...], ...]}
//	POST /reload  {"model": "checkpoint-100"}    swaps the model; requests go on with the old one until the new is ready
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"bge"
)

type service struct {
	passages  []passage
	current   atomic.Pointer[index]
	reloading sync.Mutex
}

// handle lets a function answer with a value or an error, both as JSON.
func handle(method string, body func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
		var answer any
		err := fmt.Errorf("ask with %s", method)
		if r.Method == method {
			answer, err = body(r)
		}
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			answer = map[string]string{"error": err.Error()}
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			log.Print(err) // the client went away
		}
	}
}

func (s *service) search(r *http.Request) (any, error) {
	query, k := r.URL.Query().Get("q"), 10
	if query == "" {
		return nil, errors.New("give a query: /search?q=...")
	}
	if text := r.URL.Query().Get("k"); text != "" {
		var err error
		if k, err = strconv.Atoi(text); err != nil || k < 0 {
			return nil, fmt.Errorf("k is a number of hits, not %q", text)
		}
	}
	now := s.current.Load()
	hits, err := now.search(query, k)
	if err != nil {
		return nil, err
	}
	return map[string]any{"model": now.model, "hits": hits}, nil
}

func (s *service) embed(r *http.Request) (any, error) {
	var asked struct {
		Texts []string
		Role  string
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		return nil, err
	}
	role, known := map[string]bge.Role{"": bge.Query, "query": bge.Query, "passage": bge.Passage}[asked.Role]
	if !known {
		return nil, errors.New(`role is "query" or "passage"`)
	}
	if asked.Texts == nil {
		return nil, errors.New(`give texts: {"texts": [...]}`)
	}
	now := s.current.Load()
	vectors, err := now.embedder.Encode(role, asked.Texts...)
	if err != nil {
		return nil, err
	}
	if vectors == nil {
		vectors = [][]float32{} // of no texts; nil would be null
	}
	return map[string]any{"dim": now.embedder.Dim(), "vectors": vectors}, nil
}

func (s *service) reload(r *http.Request) (any, error) {
	var asked struct{ Model string }
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		return nil, err
	}
	s.reloading.Lock()
	defer s.reloading.Unlock()
	made, err := newIndex(asked.Model, s.passages)
	if err != nil {
		return nil, err
	}
	// Requests may still use the old one: it is closed by its finalizer, after the last of them.
	s.current.Store(made)
	return map[string]string{"model": asked.Model}, nil
}

func run(model, corpus, address string) error {
	passages, err := readCorpus(corpus)
	if err != nil {
		return err
	}
	first, err := newIndex(model, passages)
	if err != nil {
		return err
	}
	s := &service{passages: passages}
	s.current.Store(first)
	routes := http.NewServeMux()
	routes.Handle("/search", handle(http.MethodGet, s.search))
	routes.Handle("/embed", handle(http.MethodPost, s.embed))
	routes.Handle("/reload", handle(http.MethodPost, s.reload))

	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	server := &http.Server{Handler: routes, ReadHeaderTimeout: 10 * time.Second}
	closed := make(chan error, 1)
	go func() {
		<-ctx.Done()
		closed <- server.Shutdown(context.Background())
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-closed
}

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: serve MODEL CORPUS.jsonl [ADDRESS]")
	}
	address := "127.0.0.1:8080"
	if len(os.Args) > 3 {
		address = os.Args[3]
	}
	if err := run(os.Args[1], os.Args[2], address); err != nil {
		log.Fatal(err)
	}
}
