// Prints the vectors of queries, one line a text, each number as the eight digits of its bits: embed MODEL TEXT...
package main

import (
	"fmt"
	"log"
	"math"
	"os"

	"bge"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: embed MODEL TEXT...")
	}
	config, err := bge.NewConfig(bge.Embed)
	if err != nil {
		log.Fatal(err)
	}
	defer config.Close()
	if err := config.Set("embedder_name_or_path", os.Args[1]); err != nil {
		log.Fatal(err)
	}
	embedder, err := bge.OpenEmbedder(config)
	if err != nil {
		log.Fatal(err)
	}
	defer embedder.Close()
	rows, err := embedder.Encode(bge.Query, os.Args[2:]...)
	if err != nil {
		log.Fatal(err)
	}
	for _, row := range rows {
		for i, x := range row {
			end := " "
			if i+1 == len(row) {
				end = "\n"
			}
			fmt.Printf("%08x%s", math.Float32bits(x), end)
		}
	}
}
