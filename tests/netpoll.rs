//! Files that are waited for keep no thread, and nobody who waits for one is forgotten: whatever the processors do meanwhile,
//! and whoever looks.

use baton::{JoinHandle, context::Context, go, io::Pollable, testing::Simulation};
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

mod child;

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

fn pair() -> (Pollable<UnixStream>, Pollable<UnixStream>) {
    let (one, other) = UnixStream::pair().unwrap();
    (Pollable::new(one).unwrap(), Pollable::new(other).unwrap())
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

fn byte(mut from: impl Read) -> u8 {
    let mut byte = [0];
    from.read_exact(&mut byte).unwrap();
    byte[0]
}

/// Sends numbers back and forth, each side one more; says which was the last.
fn rally(mut file: &Pollable<UnixStream>, begins: bool, rounds: u8) -> u8 {
    if begins {
        file.write_all(&[0]).unwrap();
    }
    for _ in 0..rounds {
        let got = byte(file);
        if got == 2 * rounds - 1 {
            return got;
        }
        file.write_all(&[got + 1]).unwrap();
    }
    2 * rounds - 1
}

fn rallies(n: usize, rounds: u8) -> Vec<JoinHandle<u8>> {
    let sides = (0..n).flat_map(|_| {
        let (one, other) = pair();
        [
            go!(move || rally(&one, true, rounds)),
            go!(move || rally(&other, false, rounds)),
        ]
    });
    sides.collect()
}

#[test]
fn a_server_with_many_connections() {
    const CLIENTS: usize = 100;
    baton::run(|| {
        let listener = Pollable::new(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let address = listener.get_ref().local_addr().unwrap();
        // Several accept from one listener.
        let listener = Arc::new(listener);
        let served = Arc::new(AtomicUsize::new(0));
        for _ in 0..3 {
            let (listener, served) = (listener.clone(), served.clone());
            go!(move || {
                loop {
                    let (stream, _) = listener.read_with(TcpListener::accept).unwrap();
                    let served = served.clone();
                    go!(move || {
                        let mut stream = Pollable::new(stream).unwrap();
                        let mut text = String::new();
                        stream.read_to_string(&mut text).unwrap();
                        stream.write_all(text.to_uppercase().as_bytes()).unwrap();
                        served.fetch_add(1, SeqCst);
                    });
                }
            });
        }
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                go!(move || {
                    let mut stream = Pollable::new(TcpStream::connect(address).unwrap()).unwrap();
                    // More than a socket takes at once, so that the writer waits too.
                    let text = format!("message {n} ").repeat(10_000);
                    stream.write_all(text.as_bytes()).unwrap();
                    stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
                    let mut back = String::new();
                    stream.read_to_string(&mut back).unwrap();
                    assert!(back == text.to_uppercase());
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        assert_eq!(served.load(SeqCst), CLIENTS);
    });
}

#[test]
fn hundreds_wait_without_a_thread_each() {
    let ran = child::run("hundreds_wait_without_a_thread_each", &[], &[], || {
        baton::run(|| {
            let (waiting, writers): (Vec<_>, Vec<_>) = (0..400)
                .map(|_| {
                    let (one, other) = pair();
                    (go!(move || byte(&one)), other)
                })
                .unzip();
            baton::time::sleep(Duration::from_millis(20));
            let threads = threads();
            // (A few more than processors: a page fault that takes its time counts as a blocking call.)
            assert!(
                threads < waiting.len() / 2,
                "{threads} threads while {} wait",
                waiting.len()
            );
            assert!(baton::dump().contains("io"), "{}", baton::dump());
            for (n, mut writer) in writers.into_iter().enumerate() {
                writer.write_all(&[n as u8]).unwrap();
            }
            for (n, waits) in waiting.into_iter().enumerate() {
                assert_eq!(waits.join().unwrap(), n as u8);
            }
        });
    });
    ran.succeeded();
}

/// While some compute without a pause, some block, some yield, and processors come and go.
#[test]
fn nobody_is_forgotten_whatever_the_others_do() {
    let ran = child::run("nobody_is_forgotten_whatever_the_others_do", &[], &[], || {
        baton::run(|| {
            static OVER: AtomicBool = AtomicBool::new(false);
            let mut others = Vec::new();
            for n in 0..6 {
                others.push(go!(move || {
                    while !OVER.load(SeqCst) {
                        match n % 3 {
                            0 => (0..100_000).for_each(|_| std::hint::spin_loop()),
                            1 => thread::sleep(Duration::from_millis(3)),
                            _ => baton::yield_now(),
                        }
                    }
                }));
            }
            for procs in [1, 4, 2, 1, 3] {
                baton::set_procs(procs).unwrap();
                for rally in rallies(6, 8) {
                    assert_eq!(rally.join().unwrap(), 15);
                }
            }
            OVER.store(true, SeqCst);
            others.into_iter().for_each(|other| other.join().unwrap());
        });
    });
    ran.succeeded();
}

/// Two have tried when there was nothing, and wait when there is something for both: one edge, which the first must not take for himself.
#[test]
fn an_edge_is_for_all_who_have_tried() {
    let ran = child::run("an_edge_is_for_all_who_have_tried", &[], &[], || {
        // SAFETY: no handler is set; the process ends if the second is forgotten.
        unsafe { libc::alarm(60) };
        baton::run(|| {
            static TRIED: AtomicUsize = AtomicUsize::new(0);
            static READ: AtomicUsize = AtomicUsize::new(0);
            let (elsewhere, keeps_awake) = pair();
            go!(move || byte(&elsewhere)); // so that somebody looks although nobody waits for the others yet
            let (ours, mut theirs) = pair();
            let ours = Arc::new(ours);
            let both: Vec<_> = (0..2)
                .map(|first_to_read| {
                    let ours = Arc::clone(&ours);
                    go!(move || {
                        let mut first = true;
                        ours.read_with(|mut file| {
                            let got = file.read(&mut [0]);
                            if std::mem::take(&mut first) {
                                TRIED.fetch_add(1, SeqCst);
                                // Not back before there is something, and the other one has some of it.
                                while TRIED.load(SeqCst) < 3 || READ.load(SeqCst) < first_to_read {
                                    thread::sleep(Duration::from_millis(1));
                                }
                            }
                            got
                        })
                        .unwrap();
                        READ.fetch_add(1, SeqCst);
                    })
                })
                .collect();
            while TRIED.load(SeqCst) < 2 {
                baton::yield_now();
            }
            theirs.write_all(&[1, 2]).unwrap();
            baton::time::sleep(Duration::from_millis(20)); // the edge is there
            TRIED.fetch_add(1, SeqCst);
            both.into_iter().for_each(|reader| reader.join().unwrap());
            drop(keeps_awake);
        });
    });
    ran.succeeded();
}

/// All Ms sleep in turn between two messages: the poller is woken by work, by files and by timers.
#[test]
fn the_poller_is_woken_by_all_that_wakes() {
    baton::run(|| {
        let (one, other) = pair();
        let writer = go!(move || {
            for n in 0..50 {
                match n % 3 {
                    0 => baton::time::sleep(Duration::from_micros(300)),
                    1 => baton::blocking_now(|| thread::sleep(Duration::from_micros(300))),
                    _ => {
                        let (tx, rx) = baton::chan::bounded(0);
                        thread::spawn(move || {
                            thread::sleep(Duration::from_micros(300));
                            tx.send(()).unwrap();
                        });
                        rx.recv().unwrap();
                    }
                }
                (&other).write_all(&[n]).unwrap();
            }
        });
        (0..50).for_each(|n| assert_eq!(byte(&one), n));
        writer.join().unwrap();
    });
}

/// There is one M, which always has something else to do.
#[test]
fn who_is_busy_looks_now_and_then() {
    let vars = [
        ("BATON_PROCS", "1"),
        ("BATON_MAX_THREADS", "1"),
        ("BATON_FORCE_MIGRATION", "0"),
    ];
    let ran = child::run("who_is_busy_looks_now_and_then", &vars, &[], || {
        baton::run(|| {
            let (one, other) = pair();
            let reader = go!(move || byte(&one));
            let writer = thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                (&other).write_all(&[5]).unwrap();
            });
            while !reader.is_finished() {
                baton::yield_now();
            }
            writer.join().unwrap();
            assert_eq!(reader.join().unwrap(), 5);
        });
    });
    ran.succeeded();
}

/// In a process whose threads are all plain, and no goroutine has ever been.
#[test]
fn plain_threads_wait_too() {
    let ran = child::run("plain_threads_wait_too", &[], &[], || {
        let (one, other) = pair();
        thread::sleep(Duration::from_millis(200)); // so that the monitor sleeps
        let reader = thread::spawn(move || byte(&one));
        thread::sleep(Duration::from_millis(20));
        (&other).write_all(&[7]).unwrap();
        assert_eq!(reader.join().unwrap(), 7);
    });
    ran.succeeded();
}

/// The one M has left its watch over the files for something that blocks, and the monitor has gone to sleep since.
#[test]
fn a_plain_thread_waits_while_the_only_m_blocks() {
    let vars = [("BATON_PROCS", "1"), ("BATON_MAX_THREADS", "1")];
    let ran = child::run("a_plain_thread_waits_while_the_only_m_blocks", &vars, &[], || {
        let (one, other) = pair();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let blocks = go!(move || baton::blocking_now(|| released.recv().unwrap()));
        thread::sleep(Duration::from_millis(100));
        let writer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            (&other).write_all(&[7]).unwrap();
        });
        assert_eq!(byte(&one), 7);
        release.send(()).unwrap();
        blocks.join().unwrap();
        writer.join().unwrap();
    });
    ran.succeeded();
}

/// The file becomes ready, and the poller hears of it, after it was tried and before it is waited for.
#[test]
fn what_comes_between_a_try_and_the_wait_is_kept() {
    baton::run(|| {
        let (one, other) = pair();
        let mut tries = 0;
        let got = one.read_with(|mut file| {
            tries += 1;
            match tries {
                1 => {
                    (&other).write_all(&[4])?;
                    baton::time::sleep(Duration::from_millis(20));
                    Err(ErrorKind::WouldBlock.into())
                }
                _ => file.read(&mut [0]),
            }
        });
        assert_eq!(got.unwrap(), 1);
    });
}

#[test]
fn waits_end_in_time() {
    baton::run(|| {
        let (one, other) = pair();
        assert!(!one.readable_timeout(Duration::from_millis(2)));
        let (ctx, cancel) = Context::background().with_cancel();
        let waits = go!(move || {
            assert!(ctx.readable(&one).is_err());
            one
        });
        baton::time::sleep(Duration::from_millis(2));
        cancel.cancel();
        let one = waits.join().unwrap();
        (&other).write_all(&[1]).unwrap();
        assert!(one.readable_timeout(Duration::from_secs(60)));
        assert_eq!(byte(&one), 1);
        assert!(other.writable_timeout(Duration::from_secs(60)));
        Context::background().writable(&other).unwrap();
        other.writable();
        // The other end goes: that is something to read.
        drop(other);
        one.readable();
        assert_eq!((&one).read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn what_is_always_ready_is_refused() {
    let error = Pollable::new(fs::File::open("/proc/self/exe").unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("baton::blocking"), "{error}");
}

#[test]
fn a_file_that_is_given_back_blocks_as_before() {
    let (one, mut other) = UnixStream::pair().unwrap();
    let watched = Pollable::new(one).unwrap();
    let one = watched.into_inner().unwrap();
    let reader = thread::spawn(move || byte(&one));
    thread::sleep(Duration::from_millis(5));
    other.write_all(&[3]).unwrap();
    assert_eq!(reader.join().unwrap(), 3);
}

#[test]
fn a_simulation_waits_as_one_thread() {
    Simulation::seed(1).run(|| {
        let (one, other) = pair();
        assert!(
            !one.readable_timeout(Duration::from_secs(3600)),
            "in the simulation's time"
        );
        let reader = go!(move || byte(&one));
        let writer = go!(move || (&other).write_all(&[9]).unwrap());
        writer.join().unwrap();
        assert_eq!(reader.join().unwrap(), 9);
    });
}
