// Checks training data: validate FILE_OR_FOLDER [GROUP_SIZE]. Prints the report as JSON.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"bge"
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: validate FILE_OR_FOLDER [GROUP_SIZE]")
	}
	group := "8"
	if len(os.Args) > 2 {
		group = os.Args[2]
	}
	config, err := bge.NewConfig(bge.Finetune)
	if err != nil {
		log.Fatal(err)
	}
	defer config.Close()
	for name, value := range map[string]string{"train_data": os.Args[1], "train_group_size": group} {
		if err := config.Set(name, value); err != nil {
			log.Fatal(err)
		}
	}
	report, err := bge.RunValidate(context.Background(), config, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report)
}
