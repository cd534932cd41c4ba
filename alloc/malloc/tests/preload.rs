//! Programs with Baton's heap preloaded: what they print, and that the heap is really theirs.
//!
//! A program that is not installed is left out, with a message.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    ops::Deref,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::LazyLock,
    thread,
};

/// The library, built by the Cargo that runs this test, in the profile that people preload.
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "-p", "baton-malloc", "--message-format=json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    let messages = String::from_utf8(output.stdout).unwrap();
    let library = messages
        .split('"')
        .rfind(|word| word.ends_with("/libbaton_malloc.so"))
        .unwrap();
    PathBuf::from(library)
});

/// A directory of one test of one process, empty; gone with this value, unless the test fails.
struct Scratch(PathBuf);

impl Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !thread::panicking() {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }
}

fn scratch(test: &str) -> Scratch {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    Scratch(dir)
}

/// Whether a program is there. If not, says that the test is left out.
fn have(program: &str) -> bool {
    let have = env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(program).is_file());
    if !have {
        eprintln!("left out: no {program} here");
    }
    have
}

/// A program with the heap preloaded.
fn preloaded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("LD_PRELOAD", &*LIBRARY);
    command
}

/// Runs a program that must end well and must not complain, of the preloaded library least of all.
fn output(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    assert!(
        !stderr.contains("ld.so") && !stderr.contains("baton"),
        "{command:?}: {stderr}"
    );
    stdout.into_owned()
}

/// Compiles a program of `tests/c`, and runs it.
fn compiled(test: &str, compiler: &str, source: &str) {
    compiled_with(test, compiler, source, None);
}

/// The same, with the source of a shared library that the program needs.
fn compiled_with(test: &str, compiler: &str, source: &str, library: Option<&str>) {
    if !have(compiler) {
        return;
    }
    let dir = scratch(test);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c");
    let compile = |target: &Path, source: &str| {
        let mut command = Command::new(compiler);
        command
            .args([
                "-O1",
                "-Wall",
                "-Werror",
                "-Wno-deprecated-declarations",
                "-Wno-use-after-free",
                "-pthread",
                "-o",
            ])
            .args([target, &sources.join(source)]);
        command
    };
    let program = dir.join("program");
    let mut compiler = compile(&program, source);
    if let Some(library) = library {
        let target = dir.join("library.so");
        output(compile(&target, library).args(["-shared", "-fPIC"]));
        compiler.arg(target);
    }
    output(&mut compiler);
    assert_eq!(output(&mut preloaded(&program)), "all is well\n");
    // The same where owners fence, as under a kernel without membarrier.
    assert_eq!(output(preloaded(&program).env("BATON_LATCH", "fence")), "all is well\n");
}

#[test]
fn the_c_interface() {
    compiled("the_c_interface", "cc", "interface.c");
}

#[test]
fn the_cxx_operators() {
    compiled("the_cxx_operators", "c++", "operators.cc");
}

/// A program may replace some operators alone.
#[test]
fn replaced_cxx_operators() {
    compiled("replaced_cxx_operators", "c++", "replaced.cc");
    compiled("replaced_cxx_array_operators", "c++", "replaced_arrays.cc");
}

/// A program may need a library with an allocator of its own, and may replace some operators besides.
#[test]
fn the_cxx_operators_of_another_allocator() {
    let library = Some("other_allocator.cc");
    compiled_with("other_allocator", "c++", "pairs.cc", library);
    compiled_with("other_allocator_operators", "c++", "operators.cc", library);
    compiled_with("other_allocator_replaced", "c++", "replaced.cc", library);
    compiled_with("other_allocator_replaced_arrays", "c++", "replaced_arrays.cc", library);
}

#[test]
fn frees_start_no_thread() {
    compiled("frees_start_no_thread", "cc", "frees.c");
}

/// A program that knows nothing of it writes a heap profile; its child, which is another program, writes one of its own.
#[test]
fn a_heap_profile() {
    if !have("cc") {
        return;
    }
    let dir = scratch("a_heap_profile");
    let (source, program, file) = (dir.join("leaks.c"), dir.join("leaks"), dir.join("heap"));
    let text = "#include <stdlib.h>\nstatic void *volatile sink;\nint main(int argc, char **argv) {\n\
        for (int i = 0; i < 5000; i++) sink = malloc(1000);\n\
        return argc > 1 ? system(argv[1]) : 0;\n}\n";
    fs::write(&source, text).unwrap();
    output(Command::new("cc").args(["-O0", "-g", "-o"]).args([&program, &source]));
    output(
        preloaded(&program)
            .arg(&program)
            .env("BATON_HEAP_PROFILE", &file)
            .env("BATON_HEAP_PROFILE_RATE", "1"),
    );
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let profiles: Vec<_> = fs::read_dir(&*dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e != "c"))
        .collect();
    // The shell between the two may have written one, too.
    assert!(profiles.len() >= 2, "{profiles:?}");
    let ours = profiles
        .iter()
        .map(|path| fs::read(path).unwrap())
        .filter(|bytes| has(bytes, "inuse_space") && has(bytes, program.to_str().unwrap()));
    assert_eq!(ours.count(), 2);

    let wrong = preloaded(&program)
        .env("BATON_HEAP_PROFILE", &file)
        .env("BATON_HEAP_PROFILE_RATE", "none")
        .output()
        .unwrap();
    assert!(wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("wants a number of bytes"));
}

/// What C programs do wrong ends them with a message.
#[test]
fn what_no_object_begins_at_is_not_freed() {
    if !have("cc") {
        return;
    }
    let dir = scratch("what_no_object_begins_at_is_not_freed");
    for (name, wrong) in [
        ("middle", "free((char *)malloc(100) + 16)"),
        ("local", "int local; free((void *)(size_t)&local)"),
        ("large_twice", "char *volatile p = malloc(1 << 20); free(p); free(p)"),
        ("large_middle", "free((char *)malloc(1 << 20) + 8192)"),
    ] {
        let (source, program) = (dir.join(format!("{name}.c")), dir.join(name));
        fs::write(
            &source,
            format!("#include <stdlib.h>\nint main(void) {{ {wrong}; return 0; }}\n"),
        )
        .unwrap();
        output(Command::new("cc").args(["-w", "-O0", "-o"]).args([&program, &source]));
        let output = preloaded(&program).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && stderr.starts_with("baton-alloc: free"),
            "{name}: {stderr}"
        );
    }
}

#[test]
fn python3() {
    if !have("python3") {
        return;
    }
    let program = r#"
import hashlib, json, re, subprocess, sys, threading, zlib
assert "libbaton_malloc.so" in open("/proc/self/maps").read()
words = ["word%d" % (i * 7919 % 10007) for i in range(50000)]
tree = {w: {"n": i, "text": w * (i % 9)} for i, w in enumerate(words)}
assert json.loads(json.dumps(tree)) == tree
def work(n, out):
    out.append(hashlib.sha256(zlib.decompress(zlib.compress(("x%d" % n * 100000).encode()))).hexdigest())
out = []
threads = [threading.Thread(target=work, args=(n, out)) for n in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
assert len(set(out)) == 8
assert subprocess.run([sys.executable, "-c", "print(sum(range(1000)))"], capture_output=True).stdout == b"499500\n"
print(len(re.findall(r"word\d*7\b", " ".join(words))), len(tree))
"#;
    assert_eq!(output(preloaded("python3").args(["-c", program])), "4997 10007\n");
}

#[test]
fn sqlite3() {
    if !have("sqlite3") {
        return;
    }
    let program = "
        create table t (a integer primary key, b text, c real);
        with recursive n(i) as (select 1 union all select i + 1 from n where i < 50000)
            insert into t select i, 'row ' || (i * 7919 % 10007), i / 3.0 from n;
        create index tb on t (b);
        delete from t where a % 5 = 0;
        pragma integrity_check;
        select count(*), count(distinct b), max(length(b)) from t;
        select group_concat(a, ' ') from (select a from t where b = 'row 42' order by a);";
    assert_eq!(
        output(preloaded("sqlite3").args([":memory:", program])),
        format!("ok\n40000|10007|9\n{}\n", rows_42())
    );
}

/// The numbers below 50,000, not divisible by 5, of which the row is called 42.
fn rows_42() -> String {
    let rows: Vec<_> = (1..=50_000u64)
        .filter(|i| i * 7919 % 10007 == 42 && i % 5 != 0)
        .map(|i| i.to_string())
        .collect();
    rows.join(" ")
}

#[test]
fn git() {
    if !have("git") {
        return;
    }
    let dir = scratch("git");
    let git = |args: &[&str]| {
        let name = [
            "-c",
            "user.name=Test",
            "-c",
            "user.email=test@example.org",
            "-c",
            "init.defaultBranch=main",
        ];
        output(
            preloaded("git")
                .args(name)
                .args(args)
                .current_dir(&*dir)
                .env_remove("GIT_DIR")
                .env_remove("GIT_WORK_TREE"),
        )
    };
    git(&["init", "-q"]);
    for round in 0..3 {
        for i in 0..100 {
            fs::write(
                dir.join(format!("file{i}")),
                format!("line {}\n", i * round).repeat(100 + i),
            )
            .unwrap();
        }
        git(&["add", "."]);
        git(&["commit", "-q", "-m", &format!("Round {round}")]);
    }
    git(&["gc", "-q"]);
    git(&["fsck", "--strict"]);
    assert_eq!(git(&["log", "--format=%s"]), "Round 2\nRound 1\nRound 0\n");
    assert_eq!(
        git(&["diff", "--shortstat", "HEAD~1", "HEAD"])
            .split_whitespace()
            .next(),
        Some("99")
    );
}

#[test]
fn gcc() {
    if !have("gcc") {
        return;
    }
    let dir = scratch("gcc");
    let functions: String = (0..500)
        .map(|i| {
            format!(
                "static int f{i}(int x) {{ return x * {i} + (x ? f{}(x - 1) : 0); }}\n",
                i.max(1) - 1
            )
        })
        .collect();
    let source = format!(
        "#include <stdio.h>\nstatic int f0(int x);\n{functions}int main(void) {{ printf(\"%d\\n\", f499(3)); }}\n"
    );
    fs::write(dir.join("main.c"), source).unwrap();
    output(
        preloaded("gcc")
            .args(["-w", "-O2", "-g", "-o", "main", "main.c"])
            .current_dir(&*dir),
    );
    // 499 * 3 + 498 * 2 + 497 * 1 + 496 * 0.
    assert_eq!(output(&mut preloaded(dir.join("main"))), "2990\n");
}

/// The compiler itself may bring an allocator of its own; its linker, and the program, do not.
#[test]
fn rustc() {
    let rustc = Path::new(env!("CARGO")).with_file_name("rustc");
    if !rustc.is_file() {
        eprintln!("left out: no rustc beside Cargo");
        return;
    }
    let dir = scratch("rustc");
    let source = r#"
        use std::{collections::HashMap, thread};
        fn main() {
            let counts = (0..4).map(|t| thread::spawn(move || {
                let mut map = HashMap::new();
                for i in 0..20_000u64 { map.entry(format!("{}", i * 7919 % 1009)).or_insert_with(Vec::new).push(i + t); }
                map
            })).map(|t| t.join().unwrap()).fold(0, |n, map| n + map.values().map(Vec::len).sum::<usize>() + map.len());
            println!("{counts}");
        }"#;
    fs::write(dir.join("main.rs"), source).unwrap();
    output(
        preloaded(rustc)
            .args(["-O", "--edition=2021", "main.rs"])
            .current_dir(&*dir),
    );
    assert_eq!(output(&mut preloaded(dir.join("main"))), "84036\n");
}

/// Ends a server if the test fails before it has ended by itself.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn redis_server() {
    if !have("redis-server") {
        return;
    }
    let dir = scratch("redis_server");
    // A path of a socket is short.
    let socket = env::temp_dir().join(format!("baton-{}.sock", std::process::id()));
    let mut server = Server(
        preloaded("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .current_dir(&*dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut log = BufReader::new(server.0.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("onnections at") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "redis-server ended");
    }
    let mut stream = UnixStream::connect(&socket).unwrap();
    let mut replies = BufReader::new(stream.try_clone().unwrap());
    let mut ask = |command: &str, lines: usize| {
        write!(stream, "{command}\r\n").unwrap();
        (0..lines)
            .map(|_| {
                let mut line = String::new();
                replies.read_line(&mut line).unwrap();
                line
            })
            .collect::<String>()
    };
    for i in 0..3_000 {
        assert_eq!(
            ask(&format!("SET key{} {}", i % 1_000, "v".repeat(i % 700 + 1)), 1),
            "+OK\r\n"
        );
        assert!(ask(&format!("RPUSH list{} {i}", i % 50), 1).starts_with(':'));
        assert_eq!(ask(&format!("HSET hash{} field{i} value", i % 50), 1), ":1\r\n");
    }
    assert_eq!(ask("DBSIZE", 1), ":1100\r\n");
    assert_eq!(ask("STRLEN key999", 1), ":200\r\n");
    assert_eq!(ask("LLEN list7", 1), ":60\r\n");
    assert_eq!(ask("FLUSHALL", 1), "+OK\r\n");
    assert_eq!(ask("DBSIZE", 1), ":0\r\n");
    write!(stream, "SHUTDOWN NOSAVE\r\n").unwrap();
    assert!(server.0.wait().unwrap().success());
}
