//! Sockets as std's: the same results, errors, timeouts and non-blocking calls, without a thread for each that waits.

use baton::{
    go,
    io::Pollable,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream},
    testing::Simulation,
    time,
};
use std::{
    env, fs,
    io::{ErrorKind, IoSlice, IoSliceMut, Read, Result, Write},
    net::{self as std_net, Ipv4Addr, SocketAddrV4},
    os::{
        fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::net::{self as std_unix, SocketAddr as UnixAddr},
    },
    panic::{self, RefUnwindSafe, UnwindSafe},
    process, ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

mod child;

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

const SHORT: Duration = Duration::from_millis(10);

/// Answers each connection with what it says, in capitals.
fn shouts(listener: TcpListener) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    go!(move || {
        for stream in listener.incoming() {
            go!(move || -> Result<()> {
                let (mut stream, mut said) = (stream?, String::new());
                (&stream).read_to_string(&mut said)?;
                stream.write_all(said.to_uppercase().as_bytes())
            });
        }
    });
    address
}

/// What comes back for `words`.
fn say(stream: &TcpStream, words: &str) -> Result<String> {
    let (mut stream, mut back) = (stream, String::new());
    stream.write_all(words.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_string(&mut back)?;
    Ok(back)
}

/// Ends the process if its tests hang: then somebody who waits for a socket was forgotten. (Threads of the runtime block this signal.)
fn not_for_ever() {
    // SAFETY: no handler is set; the process ends.
    unsafe { libc::alarm(120) };
}

/// A port that is taken as long as this is there, and at which nobody listens: connecting to it is refused.
fn no_listener() -> (OwnedFd, SocketAddr) {
    // SAFETY: makes a socket, which is nobody else's, and binds it to an address that lives here: 127.0.0.1, any port.
    let fd = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as u16;
        address.sin_addr.s_addr = u32::from_be_bytes([127, 0, 0, 1]).to_be();
        let length = size_of::<libc::sockaddr_in>() as u32;
        assert_eq!(libc::bind(fd, (&raw const address).cast(), length), 0);
        OwnedFd::from_raw_fd(fd)
    };
    let address = std_net::TcpListener::from(fd.try_clone().unwrap())
        .local_addr()
        .unwrap();
    (fd, address)
}

/// Hundreds connect, write and read at a time, all of which waits; more than a listener of std's would keep.
#[test]
fn hundreds_are_served_without_a_thread_each() {
    const CLIENTS: usize = 300;
    // Forced to migrate, each that waits wakes a thread, and another while that one waits for its CPU.
    let vars = [("BATON_FORCE_MIGRATION", "0")];
    let ran = child::run("hundreds_are_served_without_a_thread_each", &vars, &[], || {
        // A program begins with one thread, a test with two.
        // SAFETY: the child has the heap, and no lock of std's is held here.
        let pid = unsafe { libc::fork() };
        if pid != 0 {
            assert!(pid > 0, "no child");
            let mut status = 0;
            // SAFETY: `status` is there for the call.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            process::exit(i32::from(status != 0));
        }
        let done = panic::catch_unwind(|| {
            baton::run(|| {
                not_for_ever();
                // While the kernel's table of the process's files grows, who opens one sleeps in the kernel.
                let status = fs::read_to_string("/proc/self/status").unwrap();
                let room = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
                assert!(room.trim().parse::<usize>().unwrap() >= 2 * CLIENTS, "{room}");
                let address = shouts(TcpListener::bind(("localhost", 0)).unwrap());
                let clients: Vec<_> = (0..CLIENTS)
                    .map(|n| {
                        go!(move || {
                            let stream = TcpStream::connect(address).unwrap();
                            time::sleep(SHORT); // all are there at once
                            let words = format!("number {n} ").repeat(5_000); // more than the system takes at once
                            assert!(say(&stream, &words).unwrap() == words.to_uppercase());
                        })
                    })
                    .collect();
                let mut threads = 0;
                for client in clients {
                    threads = threads.max(fs::read_dir("/proc/self/task").unwrap().count());
                    client.join().unwrap();
                }
                assert!(threads < CLIENTS / 2, "{threads} threads");
            });
        });
        process::exit(i32::from(done.is_err()));
    });
    ran.succeeded();
}

#[test]
fn who_never_needs_to_wait_takes_turns_all_the_same() {
    const CROWD: usize = 64;
    let vars = [("BATON_PROCS", "2"), ("BATON_FORCE_MIGRATION", "0")];
    let ran = child::run("who_never_needs_to_wait_takes_turns_all_the_same", &vars, &[], || {
        baton::run(|| {
            let stop = Arc::new(AtomicBool::new(false));
            // Made beforehand: who opens a file may have to sleep until the table of files has grown, and his processor goes elsewhere.
            let pairs: Vec<_> = (0..CROWD).map(|_| UnixStream::pair().unwrap()).collect();
            let start = |(mut one, mut other): (UnixStream, UnixStream)| {
                let stop = Arc::clone(&stop);
                go!(move || {
                    while !stop.load(SeqCst) {
                        one.write_all(b"!").unwrap();
                        other.read_exact(&mut [0]).unwrap();
                    }
                })
            };
            let crowd: Vec<_> = pairs.into_iter().map(start).collect();
            time::sleep(Duration::from_secs(1));
            let threads = fs::read_dir("/proc/self/task").unwrap().count();
            stop.store(true, SeqCst);
            crowd.into_iter().for_each(|one| one.join().unwrap());
            assert!(threads < CROWD / 2, "{threads} threads");
        });
    });
    ran.succeeded();
}

#[test]
fn a_forked_child_leaves_its_parents_files_alone() {
    let ran = child::run("a_forked_child_leaves_its_parents_files_alone", &[], &[], || {
        baton::run(|| {
            let listener: &'static TcpListener = Box::leak(Box::new(TcpListener::bind(("localhost", 0)).unwrap()));
            let (mut one, mut other) = UnixStream::pair().unwrap();
            let accepts = go!(move || listener.accept().map(drop));
            time::sleep(SHORT); // it waits
            // SAFETY: the child has the heap, and no lock of std's is held here.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: the child does not use it any more.
                drop(unsafe { ptr::read(listener) });
                let refused = UnixStream::pair().is_err_and(|error| error.kind() == ErrorKind::Unsupported);
                other.set_read_timeout(Some(SHORT)).unwrap();
                let early = other
                    .read(&mut [0])
                    .is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
                one.write_all(b"!").unwrap();
                let late = other.read(&mut [0]).is_ok_and(|n| n == 1);
                // SAFETY: ends the child.
                unsafe { libc::_exit(i32::from(!refused) + 2 * i32::from(!early) + 4 * i32::from(!late)) };
            }
            assert!(pid > 0, "no child");
            let mut status = 0;
            // SAFETY: `status` is there for the call.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            assert_eq!(status, 0);
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            accepts.join().unwrap().unwrap();
        });
    });
    ran.succeeded();
}

#[test]
fn who_does_not_listen_refuses_and_who_does_not_answer_times_out() {
    not_for_ever();
    baton::run(|| {
        let (_taken, nobody_at) = no_listener();
        let refused = TcpStream::connect(nobody_at).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let refused = TcpStream::connect_timeout(&nobody_at, Duration::from_secs(60)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let error = TcpStream::connect_timeout(&nobody_at, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);

        // The first address that works is taken.
        let address = shouts(TcpListener::bind("127.0.0.1:0").unwrap());
        let stream = TcpStream::connect(&[nobody_at, address][..]).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        assert_eq!(say(&stream, "second").unwrap(), "SECOND");
        let none = TcpStream::connect(&[][..]).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::InvalidInput);

        // A listener of std's that is full does not answer.
        let full = std_net::TcpListener::bind("127.0.0.1:0").unwrap();
        // SAFETY: a socket that listens.
        assert_eq!(unsafe { libc::listen(full.as_raw_fd(), 0) }, 0);
        let address = full.local_addr().unwrap();
        let start = Instant::now();
        let mut waiting = Vec::new();
        let error = loop {
            match TcpStream::connect_timeout(&address, SHORT) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(start.elapsed() >= SHORT && waiting.len() < 10, "{}", waiting.len());
    });
}

#[test]
fn timeouts_are_those_of_std() {
    not_for_ever();
    baton::run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(
            (stream.read_timeout().unwrap(), stream.write_timeout().unwrap()),
            (None, None)
        );
        assert_eq!(
            stream.set_read_timeout(Some(Duration::ZERO)).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );

        // A clone shares them, as with std.
        let clone = stream.try_clone().unwrap();
        clone.set_read_timeout(Some(SHORT)).unwrap();
        clone.set_write_timeout(Some(SHORT)).unwrap();
        assert!(stream.read_timeout().unwrap().unwrap() >= SHORT);
        let start = Instant::now();
        let error = (&stream).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(start.elapsed() >= SHORT);
        let error = stream.peek(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);

        // Nobody reads: at some point there is no more room.
        let error = loop {
            if let Err(error) = (&stream).write(&[0; 65_536]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        stream.set_write_timeout(None).unwrap();
        let writer = go!(move || (&stream).write(&[0; 1 << 20]));
        let (mut other, _) = listener.accept().unwrap();
        drop(clone);
        let mut bytes = vec![0; 1 << 20];
        while other.read(&mut bytes).unwrap() > 0 {} // until the writer has had room, and is gone
        assert!(writer.join().unwrap().unwrap() > 0);
    });
}

#[test]
fn nothing_waits_on_a_handle_that_must_not() {
    not_for_ever();
    baton::run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (mut other, from) = listener.accept().unwrap();
        assert_eq!(from, stream.local_addr().unwrap());

        stream.set_nonblocking(true).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        let mut clone = stream.try_clone().unwrap();
        let reader = go!(move || {
            let mut byte = [0];
            clone.read(&mut byte).map(|_| byte[0])
        });
        time::sleep(SHORT);
        other.write_all(&[7]).unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), 7);
    });
}

/// Options, peeking, several buffers, and sockets on their way to std and back.
#[test]
fn all_else_is_stds() {
    not_for_ever();
    baton::run(|| {
        let listener = TcpListener::bind("[::1]:0")
            .or_else(|_| TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_ttl(9).unwrap();
        assert!(stream.nodelay().unwrap() && stream.ttl().unwrap() == 9 && stream.take_error().unwrap().is_none());
        assert!(format!("{stream:?}").contains("TcpStream"), "{stream:?}");
        let (mut other, _) = listener.accept().unwrap();
        assert_eq!(
            other
                .write_vectored(&[IoSlice::new(b"one "), IoSlice::new(b"two")])
                .unwrap(),
            7
        );
        let mut three = [0; 3];
        assert_eq!((stream.peek(&mut three).unwrap(), &three), (3, b"one"));
        let (mut one, mut two) = ([0; 4], [0; 8]);
        let mut parts = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
        assert_eq!((&stream).read_vectored(&mut parts).unwrap(), 7);
        assert_eq!((&one, &two[..3]), (b"one ", &b"two"[..]));

        let mut plain = std_net::TcpStream::try_from(stream).unwrap();
        let writer = thread::spawn(move || {
            thread::sleep(SHORT);
            other.write_all(b"late").unwrap();
        });
        let mut late = [0; 4];
        plain.read_exact(&mut late).unwrap(); // it blocks again
        assert_eq!(&late, b"late");
        writer.join().unwrap();
        let stream = TcpStream::try_from(plain).unwrap();
        assert_eq!((&stream).read(&mut late).unwrap(), 0);
        let watched: &Pollable<std_net::TcpStream> = stream.as_ref();
        assert!(watched.writable_timeout(SHORT));
    });
}

#[test]
fn datagrams() {
    not_for_ever();
    baton::run(|| {
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let (one, other) = (UdpSocket::bind(any).unwrap(), UdpSocket::bind(any).unwrap());
        one.connect(other.local_addr().unwrap()).unwrap();
        assert_eq!(one.peer_addr().unwrap(), other.local_addr().unwrap());
        let (address, mut bytes) = (one.local_addr().unwrap(), [0; 8]);
        let late = go!(move || {
            time::sleep(SHORT);
            one.send(b"late").unwrap();
            let n = one.recv(&mut bytes).unwrap();
            assert_eq!(one.peek(&mut [0]).map(|_| n).unwrap(), 4);
        });
        assert_eq!(other.peek_from(&mut bytes).unwrap(), (4, address));
        assert_eq!(other.recv_from(&mut bytes).unwrap(), (4, address));
        assert_eq!(&bytes[..4], b"late");
        other.send_to(b"back", address).unwrap();
        other.send_to(b"more", address).unwrap();
        late.join().unwrap();
        other.set_read_timeout(Some(SHORT)).unwrap();
        assert_eq!(other.recv(&mut bytes).unwrap_err().kind(), ErrorKind::WouldBlock);
        other.set_broadcast(true).unwrap();
        assert!(other.broadcast().unwrap());
    });
}

#[test]
fn within_the_machine() {
    not_for_ever();
    baton::run(|| {
        let directory = env::temp_dir();
        let path = |name| directory.join(format!("baton-{name}-{}", process::id()));
        let (at, dgram) = (path("stream"), path("datagram"));
        let listener = UnixListener::bind(&at).unwrap();
        let (to, to_dgram) = (at.clone(), dgram.clone());
        let client = go!(move || {
            let (mut stream, mut back) = (UnixStream::connect(to).unwrap(), String::new());
            stream.write_all(b"hello").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            stream.read_to_string(&mut back).unwrap();
            back
        });
        let (mut stream, mut said) = (listener.incoming().next().unwrap().unwrap(), String::new());
        stream.read_to_string(&mut said).unwrap();
        stream.write_all(said.to_uppercase().as_bytes()).unwrap();
        drop(stream);
        assert_eq!(client.join().unwrap(), "HELLO");

        let receiver = UnixDatagram::bind(&dgram).unwrap();
        let sender = go!(move || {
            time::sleep(SHORT);
            UnixDatagram::unbound().unwrap().send_to(b"hello", to_dgram).unwrap()
        });
        let mut bytes = [0; 8];
        assert_eq!(receiver.recv_from(&mut bytes).unwrap().0, 5);
        assert_eq!(sender.join().unwrap(), 5);
        fs::remove_file(at).unwrap();
        fs::remove_file(dgram).unwrap();

        let (one, other) = UnixDatagram::pair().unwrap();
        assert_eq!((one.send(b"12").unwrap(), other.recv(&mut bytes).unwrap()), (2, 2));

        // Nobody reads: there is room for some, and then for none, of which no event tells.
        let (sender, start) = (UnixDatagram::unbound().unwrap(), Instant::now());
        let full = UnixAddr::from_abstract_name(format!("baton-full-{}", process::id())).unwrap();
        let receiver = UnixDatagram::bind_addr(&full).unwrap();
        sender.set_write_timeout(Some(SHORT)).unwrap();
        let error = loop {
            if let Err(error) = sender.send_to_addr(&[0; 1000], &full) {
                break error;
            }
        };
        assert!(
            error.kind() == ErrorKind::WouldBlock && start.elapsed() >= SHORT,
            "{error}"
        );
        sender.set_write_timeout(None).unwrap();
        let late = go!(move || sender.send_to_addr(b"late", &full).unwrap());
        while receiver.recv(&mut bytes).unwrap() != 4 {}
        assert_eq!((late.join().unwrap(), &bytes[..4]), (4, &b"late"[..]));

        let name = UnixAddr::from_abstract_name(format!("baton-{}", process::id())).unwrap();
        let listener = UnixListener::bind_addr(&name).unwrap();
        let stream = UnixStream::connect_addr(&name).unwrap();
        listener.accept().unwrap();
        assert_eq!((&stream).read(&mut bytes).unwrap(), 0);
        assert!(std_unix::UnixStream::try_from(stream).is_ok());
    });
}

/// In threads, and where a seed says who runs.
#[test]
fn everywhere() {
    not_for_ever();
    fn both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        let mut byte = [0];
        other.write_all(&[5]).unwrap();
        (&stream).read_exact(&mut byte).unwrap();
        stream.set_read_timeout(Some(SHORT)).unwrap();
        let error = (&stream).read(&mut byte).unwrap_err();
        assert_eq!((byte[0], error.kind()), (5, ErrorKind::WouldBlock));
    }
    thread::spawn(both_ends).join().unwrap();
    Simulation::seed(3).run(both_ends);
    baton::spawn(both_ends).join().unwrap();
}

/// One event tells of all that has come. Several who wait share it, each takes some and goes away for a while: the others take the rest.
#[test]
fn nobody_waits_for_what_is_there() {
    not_for_ever();
    const EACH: usize = 200;
    baton::run(|| {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let (all, accepted) = (3 * EACH, Arc::new(AtomicUsize::new(0)));
        let busy: Vec<_> = (0..3)
            .map(|_| {
                let (listener, accepted) = (Arc::clone(&listener), Arc::clone(&accepted));
                go!(move || {
                    while accepted.fetch_add(1, SeqCst) < all {
                        let (mut stream, _) = listener.accept().unwrap();
                        stream.write_all(&[1]).unwrap();
                        let mut end = [0];
                        assert_eq!(stream.read(&mut end).unwrap(), 0); // until the client has gone
                    }
                })
            })
            .collect();
        let clients: Vec<_> = (0..all)
            .map(|_| {
                go!(move || {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.read_exact(&mut [0]).unwrap();
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        busy.into_iter().for_each(|server| server.join().unwrap());

        let (mut one, other) = UnixStream::pair().unwrap();
        let other = Arc::new(other);
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let other = Arc::clone(&other);
                go!(move || (0..EACH).for_each(|_| (&*other).read_exact(&mut [0]).unwrap()))
            })
            .collect();
        for n in 0..EACH {
            one.write_all(&[0; 3]).unwrap();
            if n % 7 == 0 {
                time::sleep(Duration::from_micros(50));
            }
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

/// Whoever waits hears of the end: of the connection, or of one direction.
#[test]
fn ends_wake_who_waits() {
    not_for_ever();
    baton::run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (other, _) = listener.accept().unwrap();
        let waiting = Arc::clone(&stream);
        let reader = go!(move || (&*waiting).read(&mut [0]).unwrap());
        time::sleep(SHORT);
        stream.shutdown(Shutdown::Read).unwrap();
        assert_eq!(reader.join().unwrap(), 0);

        drop(other);
        let error = loop {
            if let Err(error) = (&*stream).write(&[0; 1000]) {
                break error; // and not a signal
            }
            baton::yield_now();
        };
        assert!(
            matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
            "{error}"
        );
    });
}

/// A connection that does not come about at once: the listener is full, and drops what comes, until somebody accepts.
#[test]
fn connecting_waits() {
    not_for_ever();
    baton::run(|| {
        let full = std_net::TcpListener::bind("127.0.0.1:0").unwrap();
        // SAFETY: a socket that listens.
        assert_eq!(unsafe { libc::listen(full.as_raw_fd(), 0) }, 0);
        let address = full.local_addr().unwrap();
        let connected = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let connected = Arc::clone(&connected);
                go!(move || {
                    let mut stream = TcpStream::connect(address).unwrap();
                    connected.fetch_add(1, SeqCst);
                    assert_eq!(stream.peer_addr().unwrap(), address);
                    stream.write_all(&[1]).unwrap();
                    stream
                })
            })
            .collect();
        time::sleep(5 * SHORT);
        assert!(connected.load(SeqCst) < 4);
        let listener = TcpListener::try_from(full).unwrap();
        let accept = go!(move || loop {
            _ = listener.accept().unwrap();
        });
        clients.into_iter().for_each(|client| drop(client.join().unwrap()));
        assert!(!accept.is_finished());
    });
}

/// A signal says nothing of a file that a thread waits for.
#[test]
fn a_signal_makes_nobody_ready() {
    const ALARMS: libc::itimerval = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 50 },
        it_value: libc::timeval { tv_sec: 0, tv_usec: 50 },
    };
    extern "C" fn nothing(_: libc::c_int) {}
    let ran = child::run("a_signal_makes_nobody_ready", &[], &[], || {
        not_for_ever();
        let (one, _other) = UnixStream::pair().unwrap();
        let one: &Pollable<_> = one.as_ref();
        // SAFETY: a handler that does nothing, and a timer of this process's CPU time.
        unsafe {
            let handler: extern "C" fn(libc::c_int) = nothing;
            libc::signal(libc::SIGPROF, handler as libc::sighandler_t);
            libc::setitimer(libc::ITIMER_PROF, &ALARMS, std::ptr::null_mut());
        }
        let start = Instant::now();
        while start.elapsed() < 10 * SHORT {
            assert!(!one.readable_timeout(Duration::ZERO));
        }
    });
    ran.succeeded();
}

/// What the types promise, and descriptors.
#[test]
fn they_are_what_stds_are() {
    fn plain<T: Send + Sync + UnwindSafe + RefUnwindSafe>() {}
    plain::<(
        TcpStream,
        TcpListener,
        UdpSocket,
        UnixStream,
        UnixListener,
        UnixDatagram,
    )>();
    let (one, other) = std_unix::UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    let mut one = UnixStream::try_from(one).unwrap();
    assert_eq!(one.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock); // it did not block before
    let other = UnixStream::try_from(OwnedFd::from(other)).unwrap();
    // SAFETY: it was the socket's, and is nobody's now.
    let fd = unsafe { OwnedFd::from_raw_fd(other.into_raw_fd()) };
    // SAFETY: reads the flags of an open file.
    let flags = |fd| unsafe { libc::fcntl(fd, libc::F_GETFL) };
    assert_eq!(flags(fd.as_raw_fd()) & libc::O_NONBLOCK, 0);
    // Its last word goes along.
    let one = std_unix::UnixStream::try_from(one).unwrap();
    assert_ne!(flags(one.as_raw_fd()) & libc::O_NONBLOCK, 0);
}
