//go:build bge_debug

package bge_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"bge"
)

// TestMain collects without a pause while the tests run, so that an object which a call fails to keep alive is freed under it,
// and counts what is left.
func TestMain(m *testing.M) {
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case <-ended:
				return
			default:
				runtime.GC()
			}
		}
	}()
	code := m.Run()
	close(ended)
	for end := time.Now().Add(5 * time.Second); bge.LiveObjects() != 0 && time.Now().Before(end); {
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
	if left := bge.LiveObjects(); left != 0 {
		fmt.Fprintf(os.Stderr, "%d objects of the library are left\n", left)
		code = 1
	}
	os.Exit(code)
}

func TestAnObjectIsCountedUntilItIsClosed(t *testing.T) {
	before := bge.LiveObjects()
	config, err := bge.NewConfig(bge.Embed)
	if err != nil {
		t.Fatal(err)
	}
	if made := bge.LiveObjects() - before; made != 1 {
		t.Errorf("one new object counts as %d", made)
	}
	config.Close()
	config.Close()
	if left := bge.LiveObjects() - before; left != 0 {
		t.Errorf("a closed object counts as %d", left)
	}
}
