package bge_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bge"
)

const (
	model = "../tests/fixtures/parity/models/bert"
	toy   = "../examples/data/toy.jsonl"
)

func open(t *testing.T) *bge.Embedder {
	t.Helper()
	config, err := bge.NewConfig(bge.Embed)
	if err != nil {
		t.Fatal(err)
	}
	defer config.Close()
	if err := config.Set("embedder_name_or_path", model); err != nil {
		t.Fatal(err)
	}
	embedder, err := bge.OpenEmbedder(config)
	if err != nil {
		t.Fatal(err)
	}
	return embedder
}

func TestManyGoroutinesGetTheSameBytesJoinedOrNot(t *testing.T) {
	embedder := open(t)
	defer embedder.Close()
	texts := []string{"", "why does bread dough rise?", "é 日本", strings.Repeat("moon ", 900)}
	want, err := embedder.Encode(bge.Query, texts...)
	if err != nil {
		t.Fatal(err)
	}
	for _, joined := range []bool{false, true} {
		if joined {
			if err := embedder.Coalesce(8, time.Hour); !errors.Is(err, bge.ErrInvalidArgument) {
				t.Error(err)
			}
			if err := embedder.Coalesce(8, 300*time.Microsecond); err != nil {
				t.Fatal(err)
			}
		}
		var all sync.WaitGroup
		for i := 0; i < 16; i++ {
			all.Add(1)
			go func(i int) {
				defer all.Done()
				got, err := embedder.Encode(bge.Query, texts[i%4])
				if err != nil || fmt.Sprint(got[0]) != fmt.Sprint(want[i%4]) {
					t.Errorf("text %d differs, or %v", i%4, err)
				}
			}(i)
		}
		all.Wait()
	}
}

func TestErrorsAreCompared(t *testing.T) {
	config, err := bge.NewConfig(bge.Embed)
	if err != nil {
		t.Fatal(err)
	}
	if err := config.Set("batch_sise", "8"); !errors.Is(err, bge.ErrUnknownFlag) || errors.Is(err, bge.ErrIO) {
		t.Error(err)
	}
	if err := config.Set("embedder_name_or_path", "no-such-model"); err != nil {
		t.Error(err)
	}
	var e *bge.Error
	if _, err := bge.OpenEmbedder(config); !errors.As(err, &e) || !strings.Contains(e.Message, "no-such-model") {
		t.Error(err)
	}
	config.Close()
	config.Close()
	if err := config.Set("batch_size", "8"); !errors.Is(err, bge.ErrClosed) {
		t.Error(err)
	}
}

func training(t *testing.T, flags string) *bge.Config {
	t.Helper()
	text := fmt.Sprintf("--model_name_or_path %s --train_data %s --train_group_size 4 --passage_max_len 64 --output_dir %s %s",
		model, toy, filepath.Join(t.TempDir(), "out"), flags)
	config, err := bge.ParseConfig(bge.Finetune, bge.Flags, text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { config.Close() })
	return config
}

func TestValidationReports(t *testing.T) {
	text, err := bge.RunValidate(context.Background(), training(t, ""), nil)
	var report struct{ Rows int }
	if err != nil || json.Unmarshal([]byte(text), &report) != nil || report.Rows != 16 {
		t.Error(err, text)
	}
}

func TestACancelledTrainingEndsWithACheckpoint(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	report, err := bge.Train(ctx, training(t, "--num_train_epochs 50"), func(event bge.Event) bool {
		if event.Kind == bge.Step && event.Done == 2 {
			cancel()
		}
		return true
	})
	if !errors.Is(err, context.Canceled) || !strings.Contains(report, `"stopped":true`) {
		t.Error(err, report)
	}
}

func TestAPanicOfTheListenerComesBack(t *testing.T) {
	defer func() {
		if p := recover(); p != "on purpose" {
			t.Error(p)
		}
	}()
	bge.Train(context.Background(), training(t, "--max_steps 2"), func(bge.Event) bool { panic("on purpose") })
}
