//! An echo server and its clients: plain reads and writes, hundreds of sockets, thousands if asked, no thread for each.
//!
//! ```text
//! cargo run --release --example echo [CONNECTIONS]
//! ```
//!
//! Every connection has two goroutines, one at each end. The client sends a message and reads it back, [`ROUNDS`] times. The code is
//! that of a server with a thread for each connection, but for where the sockets come from: who waits on these parks.

use baton::{
    go,
    net::{SocketAddr, TcpListener, TcpStream},
};
use std::{
    env, fs,
    io::{self, Read, Write},
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
fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            n => stream.write_all(&bytes[..n])?,
        }
    }
}

fn accept(listener: &TcpListener) -> io::Result<()> {
    for stream in listener.incoming() {
        go!(serve(stream?));
    }
    Ok(())
}

/// How many messages came back as they were.
fn talk(address: SocketAddr, number: usize) -> io::Result<u64> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut equal = 0;
    for round in 0..ROUNDS {
        let message = [(number as u64 + round) as u8; MESSAGE];
        let mut back = [0; MESSAGE];
        stream.write_all(&message)?;
        stream.read_exact(&mut back)?;
        equal += u64::from(back == message);
    }
    Ok(equal)
}

#[baton::main]
fn main() -> io::Result<()> {
    let connections = env::args()
        .nth(1)
        .map_or(CONNECTIONS, |n| n.parse().expect("a number of connections"));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    go!(move || {
        if let Err(error) = accept(&listener) {
            eprintln!("no more connections: {error}; each takes two descriptors, of which `ulimit -n` is the limit");
        }
    });

    let start = Instant::now();
    let clients: Vec<_> = (0..connections).map(|number| go!(talk(address, number))).collect();
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
