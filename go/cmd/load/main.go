// Loads a search service, examples/cpp_search or go/cmd/serve: load -url URL [-clients N] [-for 3s] [-reload MODEL,MODEL]
// [-queries queries.jsonl]. Three searches to one /embed of two texts. Fails on any wrong answer.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strings"
	"sync"
	"time"
)

var client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1024}}

func read(response *http.Response, err error) (int, []byte, error) {
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

func post(url string, value any) (int, []byte, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return 0, nil, err
	}
	return read(client.Post(url, "application/json", bytes.NewReader(text)))
}

// search asks for two hits and checks that they are in order.
func search(base, query string) error {
	status, body, err := read(client.Get(base + "/search?k=2&q=" + url.QueryEscape(query)))
	var found struct {
		Hits []struct {
			ID, Text string
			Score    float64
		}
	}
	if err == nil {
		err = json.Unmarshal(body, &found)
	}
	if err != nil || status != 200 || len(found.Hits) != 2 || found.Hits[0].Score < found.Hits[1].Score {
		return fmt.Errorf("search: status %d, %v: %s", status, err, body)
	}
	return nil
}

// embed asks for the vectors of two texts.
func embed(base, text string) error {
	status, body, err := post(base+"/embed", map[string]any{"texts": []string{text, "é \"日本\""}, "role": "passage"})
	var made struct {
		Dim     int
		Vectors [][]float64
	}
	if err == nil {
		err = json.Unmarshal(body, &made)
	}
	if err != nil || status != 200 || len(made.Vectors) != 2 || made.Dim == 0 || len(made.Vectors[1]) != made.Dim {
		return fmt.Errorf("embed: status %d, %v: %s", status, err, body)
	}
	return nil
}

// readQueries reads the texts of a BEIR queries.jsonl; no path, no queries.
func readQueries(path string) (queries []string, err error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for rows := json.NewDecoder(file); ; {
		var row struct{ Text string }
		if err := rows.Decode(&row); err == io.EOF {
			return queries, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		queries = append(queries, row.Text)
	}
}

func main() {
	base := flag.String("url", "", "where the service is")
	clients := flag.Int("clients", 16, "how many ask at once")
	duration := flag.Duration("for", 3*time.Second, "how long")
	reload := flag.String("reload", "", "models to swap between meanwhile")
	asked := flag.String("queries", "", "a queries.jsonl to ask from, instead of made-up questions")
	flag.Parse()
	queries, err := readQueries(*asked)
	if err != nil {
		log.Fatal(err)
	}
	for _, wrong := range []string{`{`, `{}`, `{"texts": 1}`, `{"texts": ["a"], "role": "x"}`} {
		status, body, err := read(client.Post(*base+"/embed", "application/json", strings.NewReader(wrong)))
		if err != nil || status != 400 || !json.Valid(body) {
			log.Fatalf("%s: status %d, %v: %s", wrong, status, err, body)
		}
	}
	for _, wrong := range []string{"", "?q=", "?q=ice&k=abc", "?q=ice&k=-1"} {
		status, body, err := read(client.Get(*base + "/search" + wrong))
		if err != nil || status != 400 || !bytes.Contains(body, []byte("give a query")) && !bytes.Contains(body, []byte("k is a number of hits")) {
			log.Fatalf("/search%s: status %d, %v: %s", wrong, status, err, body)
		}
	}
	if status, body, err := post(*base+"/embed", map[string]any{"texts": []string{}}); err != nil || status != 200 || !bytes.Contains(body, []byte(`"vectors":[]`)) {
		log.Fatalf("/embed of no texts: status %d, %v: %s", status, err, body)
	}
	end := time.Now().Add(*duration)
	var all sync.WaitGroup
	times := make([][]time.Duration, *clients)
	for i := range times {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			for n := 0; time.Now().Before(end); n++ {
				begun, text := time.Now(), fmt.Sprintf("what melts ice %d %d?", i, n)
				if len(queries) > 0 {
					text = queries[(i*7919+n)%len(queries)]
				}
				ask := search
				if n%4 == 3 {
					ask = embed
				}
				if err := ask(*base, text); err != nil {
					log.Fatal(err)
				}
				times[i] = append(times[i], time.Since(begun))
			}
		}(i)
	}
	reloads := 0
	for models := strings.Split(*reload, ","); *reload != "" && time.Now().Before(end); reloads++ {
		if status, body, err := post(*base+"/reload", map[string]string{"model": models[reloads%len(models)]}); err != nil || status != 200 {
			log.Fatalf("reload: status %d, %v: %s", status, err, body)
		}
		time.Sleep(*duration / 10)
	}
	all.Wait()
	var sorted []time.Duration
	for _, own := range times {
		sorted = append(sorted, own...)
	}
	sort.Slice(sorted, func(i, j int) bool { return sorted[i] < sorted[j] })
	if len(sorted) < *clients {
		log.Fatalf("only %d answers", len(sorted))
	}
	at := func(share float64) time.Duration { return sorted[int(share*float64(len(sorted)-1))] }
	fmt.Printf("%d answers, %.0f a second, p50 %v, p99 %v, %d reloads, no error\n",
		len(sorted), float64(len(sorted))/duration.Seconds(), at(0.5), at(0.99), reloads)
}
