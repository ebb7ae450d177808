package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"time"

	"bge"
)

type passage struct{ id, text string }

// readCorpus reads a BEIR corpus.jsonl; a title stands before its text.
func readCorpus(path string) ([]passage, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var passages []passage
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 64<<20)
	for number := 1; lines.Scan(); number++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var row struct {
			ID          string `json:"_id"`
			Title, Text string
		}
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, number, err)
		}
		if row.Title != "" {
			row.Text = row.Title + " " + row.Text
		}
		passages = append(passages, passage{row.ID, row.Text})
	}
	return passages, lines.Err()
}

// index is a model and the corpus that it has encoded: never changed once made, so that any number of requests may search.
type index struct {
	model    string
	embedder *bge.Embedder
	passages []passage
	rows     [][]float32
}

func newIndex(model string, passages []passage) (*index, error) {
	config, err := bge.NewConfig(bge.Embed)
	if err != nil {
		return nil, err
	}
	defer config.Close()
	if err := config.Set("embedder_name_or_path", model); err != nil {
		return nil, err
	}
	embedder, err := bge.OpenEmbedder(config)
	if err != nil {
		return nil, err
	}
	// Requests of several connections become one batch; under load the next one gathers while one is computed.
	if err := embedder.Coalesce(32, 500*time.Microsecond); err != nil {
		return nil, err
	}
	texts := make([]string, len(passages))
	for i, p := range passages {
		texts[i] = p.text
	}
	rows, err := embedder.Encode(bge.Passage, texts...)
	if err != nil {
		return nil, err
	}
	return &index{model, embedder, passages, rows}, nil
}

type hit struct {
	ID    string  `json:"id"`
	Score float32 `json:"score"`
	Text  string  `json:"text"`
}

// search finds the nearest passages, best first.
func (x *index) search(query string, k int) ([]hit, error) {
	vectors, err := x.embedder.Encode(bge.Query, query)
	if err != nil {
		return nil, err
	}
	hits := make([]hit, len(x.rows))
	for i, row := range x.rows {
		hits[i] = hit{x.passages[i].id, dot(vectors[0], row), x.passages[i].text}
	}
	sort.SliceStable(hits, func(i, j int) bool { return hits[i].Score > hits[j].Score })
	if k < len(hits) {
		hits = hits[:k]
	}
	return hits, nil
}

func dot(a, b []float32) (sum float32) {
	for i, x := range a {
		sum += x * b[i]
	}
	return sum
}
