// Fine-tunes: finetune "--model_name_or_path MODEL --train_data FILE --output_dir FOLDER ...". Ctrl-C ends with a checkpoint.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"bge"
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: finetune FLAGS")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	config, err := bge.ParseConfig(bge.Finetune, bge.Flags, os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	defer config.Close()
	report, err := bge.Train(ctx, config, func(event bge.Event) bool {
		if event.Kind == bge.Step {
			fmt.Println(event.JSON)
		}
		return true
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report)
}
