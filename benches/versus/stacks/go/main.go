// The rows of this comparison in Go: "go DEPTH" prints cold, warm and churn in nanoseconds, "many go N" the nanoseconds of
// processor time to start and park each of N goroutines and the bytes that each takes.
package main

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const frame = 512

// Half a kilobyte of stack for each call.
//
//go:noinline
func descend(depth int) uint64 {
	var words [56]uint64
	words[depth/frame%56] = uint64(depth)
	if depth <= frame {
		return words[depth%56]
	}
	return descend(depth-frame) + words[depth/frame%56]
}

func least(samples []float64) float64 { return slices.Min(samples) }

func clamp(n, low, high int) int { return max(low, min(n, high)) }

func nanos(start time.Time) float64 { return float64(time.Since(start).Nanoseconds()) }

func bare(depth int) float64 {
	descend(depth)
	var samples []float64
	for range clamp((256<<20)/depth, 5, 201) {
		start := time.Now()
		descend(depth)
		samples = append(samples, nanos(start))
	}
	return least(samples)
}

func growth(depth int) {
	release := make(chan struct{})
	result := make(chan float64, 1)
	var cold []float64
	for range clamp((64<<20)/depth, 1, 9) {
		start := time.Now()
		go func() {
			descend(depth)
			result <- nanos(start)
			<-release
		}()
		cold = append(cold, <-result)
	}
	close(release)
	go func() { result <- bare(depth) }()
	warm := <-result
	done := make(chan uint64)
	run := func() {
		go func() { done <- descend(depth) }()
		<-done
	}
	run()
	var churn []float64
	for range clamp((256<<20)/depth, 5, 201) {
		start := time.Now()
		run()
		churn = append(churn, nanos(start))
	}
	fmt.Println(least(cold), warm, least(churn))
}

// Bytes resident, page tables included.
func memory() float64 {
	file, err := os.Open("/proc/self/status")
	if err != nil {
		panic(err)
	}
	defer file.Close()
	sum := 0.0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if words[0] == "VmRSS:" || words[0] == "VmPTE:" {
			kib, _ := strconv.ParseFloat(words[1], 64)
			sum += kib * 1024
		}
	}
	return sum
}

// Processor time of this process in nanoseconds.
func worked() float64 {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return float64(usage.Utime.Nano() + usage.Stime.Nano())
}

func many(n int) {
	before := memory()
	released := make(chan struct{})
	var here sync.WaitGroup
	here.Add(n)
	start := worked()
	for range n {
		go func() {
			here.Done()
			<-released
		}()
	}
	here.Wait()
	each := (worked() - start) / float64(n)
	fmt.Println(each, (memory()-before)/float64(n))
}

func main() {
	last, err := strconv.Atoi(os.Args[len(os.Args)-1])
	if err != nil {
		panic(err)
	}
	if os.Args[1] == "many" {
		many(last)
	} else {
		growth(last)
	}
}
