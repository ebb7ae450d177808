package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	"bge"
)

type passage struct{ id, text string }

// textID is an id: text, or a whole number written out.
type textID string

func (x *textID) UnmarshalJSON(data []byte) error {
	if _, err := strconv.ParseInt(string(data), 10, 64); err == nil {
		*x = textID(data)
		return nil
	}
	return json.Unmarshal(data, (*string)(x))
}

// readPassage reads a line of a corpus as bge does: the title, if there is one, stands before the text.
func readPassage(line []byte) (passage, error) {
	var row struct {
		ID    textID `json:"_id"`
		Other textID `json:"id"`
		Title string
		Text  *string
	}
	if err := json.Unmarshal(line, &row); err != nil {
		return passage{}, err
	}
	if row.ID == "" {
		row.ID = row.Other
	}
	if row.ID == "" || row.Text == nil {
		return passage{}, errors.New("`_id` or `text` is missing")
	}
	return passage{string(row.ID), strings.TrimSpace(row.Title + " " + *row.Text)}, nil
}

// readCorpus reads a BEIR corpus.jsonl.
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
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		read, err := readPassage(lines.Bytes())
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, number, err)
		}
		passages = append(passages, read)
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
