// The rows on Go, the way its users write them: GOMAXPROCS=2.
package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The sizes are those of src/lib.rs.
const (
	workers     = 2
	spawnJoin   = 300_000
	burst       = 1_000_000
	yieldAlone  = 3_000_000
	yieldAmong  = 1_000
	yieldEach   = 2_000
	pingPong    = 500_000
	spsc        = 4_000_000
	mpmcEnds    = 4
	mpmcEach    = 500_000
	selects     = 1_000_000
	skynetSize  = 1_000_000
	sievePrimes = 2_000
	mutexUsers  = 8
	mutexEach   = 250_000
	parked      = 1_000_000
	timers      = 1_000_000
	blockers    = 64
	blockEach   = 50
	cooperative = 4
	short       = 100_000
	syscalls    = 2_000_000
	depthBudget = 1 << 31
)

func figure(name string, value float64) { fmt.Println(name, value) }

func perTurn(n int, f func()) {
	start := time.Now()
	f()
	figure("ns", float64(time.Since(start).Nanoseconds())/float64(n))
}

// As beside_bare of the Rust programs.
func besideBare(n int, f, bare func(int)) {
	const turns = 40
	one := func(f func(int)) float64 {
		start := time.Now()
		f(n / turns)
		return float64(time.Since(start).Nanoseconds()) / float64(n/turns)
	}
	var with, without, adds []float64
	for range turns {
		a, b := one(f), one(bare)
		with, without, adds = append(with, a), append(without, b), append(adds, a-b)
	}
	median := func(all []float64) float64 {
		slices.Sort(all)
		return all[turns/2]
	}
	figure("ns", median(with))
	figure("bare ns", median(without))
	figure("adds ns", median(adds))
}

func inAll(f func()) {
	start := time.Now()
	f()
	figure("ms", time.Since(start).Seconds()*1e3)
}

func together(n int, f func()) {
	var group sync.WaitGroup
	for range n {
		group.Add(1)
		go func() {
			f()
			group.Done()
		}()
	}
	group.Wait()
}

//go:noinline
func recurse(bytes int) uint64 {
	var frame [12]uint64
	for i := range frame {
		frame[i] = uint64(bytes)
	}
	if bytes > 160 {
		return recurse(bytes-160) + frame[bytes%12]
	}
	return frame[0]
}

var sink atomic.Uint64

func unit() {
	x := uint64(88172645463325252)
	for range 2_600 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	if x == 0 {
		sink.Store(x)
	}
}

// rawSleep sleeps in the kernel for a millisecond in a call that the runtime sees: syscall.Syscall.
func rawSleep() {
	ms := syscall.Timespec{Nsec: 1_000_000}
	syscall.Nanosleep(&ms, nil)
}

type ticks struct {
	start, last, next time.Time
	gap               time.Duration
	late              []time.Duration
}

func newTicks() *ticks {
	now := time.Now()
	return &ticks{start: now, last: now, next: now.Add(time.Millisecond), late: make([]time.Duration, 0, 8192)}
}

func (t *ticks) wait() time.Duration { return time.Until(t.next) }

func (t *ticks) tick() bool {
	now := time.Now()
	t.gap = max(t.gap, now.Sub(t.last))
	t.late = append(t.late, now.Sub(t.next))
	t.last = now
	for !t.next.After(now) {
		t.next = t.next.Add(time.Millisecond)
	}
	return now.Sub(t.start) < 2*time.Second
}

func (t *ticks) run() {
	time.Sleep(t.wait())
	for t.tick() {
		time.Sleep(t.wait())
	}
	sort.Slice(t.late, func(i, j int) bool { return t.late[i] < t.late[j] })
	at := min(len(t.late)*999/1000, len(t.late)-1)
	figure("ticks %", float64(len(t.late))/20)
	figure("gap ms", t.gap.Seconds()*1e3)
	figure("p99.9 late ms", t.late[at].Seconds()*1e3)
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

func hog(beside int) {
	var stop atomic.Bool
	for i := range workers + beside {
		go func() {
			for !stop.Load() {
				if i < workers {
					unit()
				} else {
					rawSleep()
				}
			}
		}()
	}
	done := make(chan struct{})
	go func() {
		newTicks().run()
		close(done)
	}()
	<-done
	stop.Store(true)
}

func latency() {
	var stop atomic.Bool
	for range 4 {
		go func() {
			for !stop.Load() {
				unit()
			}
		}()
	}
	go func() {
		for i := range short {
			go unit()
			if i%16 == 0 {
				runtime.Gosched()
			}
		}
	}()
	newTicks().run()
	stop.Store(true)
}

func blocking(park bool) {
	var units atomic.Uint64
	var stop atomic.Bool
	for range cooperative {
		go func() {
			for !stop.Load() {
				unit()
				units.Add(1)
				runtime.Gosched()
			}
		}()
	}
	alone := 200 * time.Millisecond
	time.Sleep(alone)
	before, start := units.Load(), time.Now()
	together(blockers, func() {
		for range blockEach {
			rawSleep()
			if park {
				runtime.Gosched()
			}
		}
	})
	wall := time.Since(start)
	beside := float64(units.Load()-before) / wall.Seconds()
	figure("wall ms", wall.Seconds()*1e3)
	figure("kept %", 100*beside/(float64(before)/alone.Seconds()))
	stop.Store(true)
}

func skynet(out chan<- int, first, size int) {
	if size == 1 {
		out <- first
		return
	}
	results := make(chan int)
	for i := range 10 {
		go skynet(results, first+i*size/10, size/10)
	}
	sum := 0
	for range 10 {
		sum += <-results
	}
	out <- sum
}

func sieve() {
	numbers := make(chan int)
	go func(first chan<- int) {
		for i := 2; ; i++ {
			first <- i
		}
	}(numbers)
	for range sievePrimes {
		prime := <-numbers
		from, next := numbers, make(chan int)
		go func() {
			for {
				if i := <-from; i%prime != 0 {
					next <- i
				}
			}
		}()
		numbers = next
	}
}

func stack(depth int) {
	n := depthBudget / depth
	result := make(chan float64)
	go func() {
		recurse(depth)
		start := time.Now()
		for range n / 8 {
			recurse(depth)
		}
		result <- float64(time.Since(start).Nanoseconds()) / float64(n/8)
	}()
	bare := <-result
	run := func(n int) {
		done := make(chan uint64)
		for range n {
			go func() { done <- recurse(depth) }()
			<-done
		}
	}
	run(n / 8)
	start := time.Now()
	run(n)
	ns := float64(time.Since(start).Nanoseconds()) / float64(n)
	figure("ns", ns)
	figure("beyond bare ns", ns-bare)
}

func main() {
	row := os.Args[1]
	if strings.HasSuffix(row, "_1") {
		runtime.GOMAXPROCS(1)
	} else {
		runtime.GOMAXPROCS(workers)
	}
	switch row {
	case "spawn_join":
		perTurn(spawnJoin, func() {
			for range spawnJoin {
				var group sync.WaitGroup
				group.Add(1)
				go group.Done()
				group.Wait()
			}
		})
	case "spawn_burst":
		perTurn(burst, func() { together(burst, func() {}) })
	case "yield_alone":
		perTurn(yieldAlone, func() {
			for range yieldAlone {
				runtime.Gosched()
			}
		})
	case "yield_1000":
		perTurn(yieldAmong*yieldEach, func() {
			together(yieldAmong, func() {
				for range yieldEach {
					runtime.Gosched()
				}
			})
		})
	case "ping_pong", "ping_pong_1":
		perTurn(pingPong, func() {
			ping, pong := make(chan int), make(chan int)
			go func() {
				for i := range ping {
					pong <- i
				}
			}()
			for i := range pingPong {
				ping <- i
				<-pong
			}
			close(ping)
		})
	case "spsc":
		perTurn(spsc, func() {
			c := make(chan int, 128)
			go func() {
				for i := range spsc {
					c <- i
				}
				close(c)
			}()
			for range c {
			}
		})
	case "mpmc":
		perTurn(mpmcEnds*mpmcEach, func() {
			c := make(chan int, 128)
			var receivers sync.WaitGroup
			for range mpmcEnds {
				receivers.Add(1)
				go func() {
					for range c {
					}
					receivers.Done()
				}()
			}
			together(mpmcEnds, func() {
				for i := range mpmcEach {
					c <- i
				}
			})
			close(c)
			receivers.Wait()
		})
	case "select_4":
		perTurn(selects, func() {
			var c [4]chan int
			for i := range c {
				c[i] = make(chan int)
				go func() {
					for {
						c[i] <- 1
					}
				}()
			}
			for range selects {
				select {
				case <-c[0]:
				case <-c[1]:
				case <-c[2]:
				case <-c[3]:
				}
			}
		})
	case "skynet":
		inAll(func() {
			out := make(chan int)
			go skynet(out, 0, skynetSize)
			if <-out != skynetSize*(skynetSize-1)/2 {
				panic("wrong sum")
			}
		})
	case "sieve":
		inAll(sieve)
	case "mutex":
		perTurn(mutexUsers*mutexEach, func() {
			var lock sync.Mutex
			count := 0
			together(mutexUsers, func() {
				for range mutexEach {
					lock.Lock()
					count++
					lock.Unlock()
				}
			})
		})
	case "rwlock_95":
		perTurn(mutexUsers*mutexEach, func() {
			var lock sync.RWMutex
			count := 0
			together(mutexUsers, func() {
				for i := range mutexEach {
					if i%20 == 0 {
						lock.Lock()
						count++
						lock.Unlock()
					} else {
						lock.RLock()
						_ = count
						lock.RUnlock()
					}
				}
			})
		})
	case "parked_1m":
		var ready sync.WaitGroup
		end := make(chan int)
		start := time.Now()
		for range parked {
			ready.Add(1)
			go func() {
				ready.Done()
				<-end
			}()
		}
		ready.Wait()
		figure("ns", float64(time.Since(start).Nanoseconds())/parked)
	case "timers_1m":
		var group sync.WaitGroup
		var worst atomic.Int64
		start, cpu := time.Now(), cpuSeconds()
		for i := range timers {
			group.Add(1)
			go func() {
				until := time.Now().Add(time.Duration(1000+i&255) * time.Millisecond)
				time.Sleep(time.Until(until))
				late := time.Since(until).Microseconds()
				for {
					seen := worst.Load()
					if late <= seen || worst.CompareAndSwap(seen, late) {
						break
					}
				}
				group.Done()
			}()
		}
		group.Wait()
		figure("ms over 1000", time.Since(start).Seconds()*1e3-1e3)
		figure("cpu s", cpuSeconds()-cpu)
		figure("late ms", float64(worst.Load())/1e3)
	case "hog":
		hog(0)
	case "hog_blockers":
		hog(64)
	case "latency":
		latency()
	case "blocking", "blocking_undeclared":
		blocking(false)
	case "blocking_parking":
		blocking(true)
	case "syscall":
		besideBare(syscalls, func(n int) {
			for range n {
				syscall.Syscall(syscall.SYS_GETPPID, 0, 0, 0)
			}
		}, func(n int) {
			for range n {
				syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0)
			}
		})
	default:
		depth, found := strings.CutPrefix(row, "stack_")
		if !found {
			os.Exit(3)
		}
		n, err := strconv.Atoi(depth)
		if err != nil {
			panic(err)
		}
		stack(n)
	}
}
