//! A program on Baton's heap: the test harness itself, collections, strings, threads.

use baton_alloc::{Alloc, stats};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, mpsc},
    thread,
};

#[global_allocator]
static ALLOC: Alloc = Alloc;

#[test]
fn collections() {
    let mut map = HashMap::new();
    let mut tree = BTreeMap::new();
    let mut queue = VecDeque::new();
    for i in 0..20_000_u32 {
        let text = format!("number {i}: {}", "x".repeat((i % 50) as usize));
        map.insert(i, text.clone());
        tree.insert(text.clone(), i);
        queue.push_back(text);
        if i % 3 == 0 {
            map.remove(&(i / 2));
            queue.pop_front();
        }
    }
    for (text, i) in &tree {
        assert!(text.starts_with(&format!("number {i}:")));
        assert!(map.get(i).is_none_or(|t| t == text));
    }
    let mut long = Vec::new();
    for i in 0..3_000_000_u32 {
        long.push(i);
    }
    assert!(long.iter().enumerate().all(|(i, &n)| i as u32 == n));
    long.truncate(10);
    long.shrink_to_fit();
    assert_eq!(long, (0..10).collect::<Vec<_>>());
    assert!(stats().hits > 20_000);
}

#[test]
fn threads_and_channels() {
    let shared = Arc::new((0..1000).map(|i| i.to_string()).collect::<Vec<_>>());
    let (sender, receiver) = mpsc::channel();
    let threads: Vec<_> = (0..4)
        .map(|t| {
            let (sender, shared) = (sender.clone(), Arc::clone(&shared));
            thread::spawn(move || {
                for (i, text) in shared.iter().enumerate() {
                    sender.send((t, i, text.repeat(3))).unwrap();
                }
            })
        })
        .collect();
    drop(sender);
    let mut seen = [0; 4];
    for (t, i, text) in receiver {
        assert_eq!((seen[t], text), (i, i.to_string().repeat(3)), "thread {t}");
        seen[t] += 1;
    }
    assert_eq!(seen, [1000; 4]);
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_panic_unwinds_and_its_message_is_freed() {
    let caught = thread::spawn(|| {
        let kept = vec![String::from("dropped on the way"); 100];
        assert!(kept.is_empty(), "{} strings", kept.len());
    })
    .join()
    .unwrap_err();
    assert_eq!(caught.downcast_ref::<String>().unwrap(), "100 strings");
}

#[test]
fn children_are_spawned() {
    let output = std::process::Command::new("/bin/echo").arg("hello").output().unwrap();
    assert_eq!(output.stdout, b"hello\n");
}
