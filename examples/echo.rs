//! An echo server and its clients: plain reads and writes, thousands of sockets, no thread for each.
//!
//! ```text
//! cargo run --release --example echo [CONNECTIONS]
//! ```
//!
//! Every connection has two goroutines, one at each end. The client sends a message and reads it back, [`ROUNDS`] times. The code is
//! that of a server with a thread for each connection; the sockets are inside [`Pollable`]s, so who waits parks.

use baton::{
    go,
    io::Pollable,
    sync::{ArcPermit, Semaphore},
};
use std::{
    env, fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::Instant,
};

#[global_allocator]
static ALLOC: baton::Alloc = baton::Alloc;

/// Messages on each connection.
const ROUNDS: u64 = 50;

/// Bytes of one.
const MESSAGE: usize = 64;

/// Connections if none are asked for: with two descriptors each they stay below a limit of 1,024.
const CONNECTIONS: usize = 400;

/// Sends back what comes, until the other end is closed.
fn serve(mut stream: &Pollable<TcpStream>) -> io::Result<()> {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            n => stream.write_all(&bytes[..n])?,
        }
    }
}

fn accept(listener: &Pollable<TcpListener>) -> io::Result<()> {
    loop {
        let (stream, _) = listener.read_with(TcpListener::accept)?;
        go!(move || serve(&Pollable::new(stream)?));
    }
}

/// How many messages came back as they were.
fn talk(mut stream: Pollable<TcpStream>, number: usize, begins: ArcPermit) -> io::Result<u64> {
    stream.get_ref().set_nodelay(true)?;
    let mut begins = Some(begins);
    let mut equal = 0;
    for round in 0..ROUNDS {
        let message = [(number as u64 + round) as u8; MESSAGE];
        let mut back = [0; MESSAGE];
        stream.write_all(&message)?;
        stream.read_exact(&mut back)?;
        equal += u64::from(back == message);
        begins.take(); // the server has accepted this one
    }
    Ok(equal)
}

#[baton::main]
fn main() -> io::Result<()> {
    let connections = env::args()
        .nth(1)
        .map_or(CONNECTIONS, |n| n.parse().expect("a number of connections"));
    let listener = Pollable::new(TcpListener::bind("127.0.0.1:0")?)?;
    let address = listener.get_ref().local_addr()?;
    go!(move || accept(&listener));

    // A listener of std keeps 128 that it has not accepted; who comes beyond that tries again after a second.
    let beginners = Arc::new(Semaphore::new(100));
    let mut clients = Vec::new();
    let start = Instant::now();
    for number in 0..connections {
        let permit = beginners.acquire_arc(1);
        let stream = Pollable::new(TcpStream::connect(address)?)?;
        clients.push(go!(talk(stream, number, permit)));
    }
    let mut messages = 0;
    let mut threads = 0;
    for client in clients {
        threads = threads.max(fs::read_dir("/proc/self/task")?.count());
        messages += client.join().expect("no client panics")?;
    }
    let ns = start.elapsed().as_nanos() / u128::from(messages.max(1));
    println!(
        "{connections} connections, {ROUNDS} messages each there and back, on at most {threads} threads: {ns} ns each"
    );
    let equal = messages == connections as u64 * ROUNDS;
    println!("RESULT connections={connections} messages={messages} equal={equal} threads={threads} message_ns={ns}");
    Ok(())
}
