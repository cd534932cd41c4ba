//! The statistics as text, and what each number means.
//!
//! ```text
//!   Baton's heap
//!     address space             201.0 MiB   all that was mapped: arenas, metadata; only what was written to takes memory
//!     … metadata                  1.2 MiB   of it outside the arenas
//!     … object arenas           128.0 MiB   of it for objects, 64 MiB each
//!     … stack arenas             64.0 MiB   of it for stacks
//!     small objects: spans       18.5 MiB   pages that belong to a size class
//!       live                     12.0 MiB   with the program, in whole slots: what was asked for is less by up to an eighth
//!       cached                    2.1 MiB   free, on the lists of mcaches: the next allocation of a P has them without a lock
//!       central                   3.9 MiB   free, in mcentrals: in spans of which some object is out
//!       tails                     0.5 MiB   ends of spans that are too short for an object
//!     large objects              64.0 MiB   with the program, in whole pages
//!       cached                    1.0 MiB   freed, in mcaches
//!     stacks                      8.0 MiB   manual spans of stack arenas
//!     other spans                 0.1 MiB   manual spans of object arenas
//!     free pages                108.0 MiB   of object arenas: address space that is in no span
//!       with memory behind        3.0 MiB   free pages of all arenas that the scavenger may give back
//!     given back                 40.0 MiB   since the start, by the scavenger, the memory limit and `release_free`
//!     allocated, freed            1200000 1100000   objects, since the start
//!     … from lists, direct        99.1 %  12        small objects that asked no mcentral; that found no mcache
//!     refills, flushes              10321  9911     batches from mcentrals to mcaches, and back
//!     mcaches, leases                  10  8        ever made; for threads without a processor
//!
//!      size   spans KiB        live      cached     central  tails B  in use
//!        16         128        7000         500         692        0    85 %   one line for each class that has spans
//! ```
//!
//! *In use* is the share of a class's spans that the program has. Low over all classes means that a load fell and its spans
//! are not empty yet; low in one class means fragmentation.

use crate::{
    Alloc,
    arena::ARENA,
    stats::{ClassStats, Stats, stats},
    sys::stderr::Stderr,
};
use core::fmt::{self, Write};

impl Alloc {
    /// Reads the counters of the heap: see [`Stats`], whose [`Display`](fmt::Display) is the report.
    ///
    /// ```
    /// # use baton_alloc::Alloc;
    /// let before = Alloc::stats();
    /// let object = baton_alloc::malloc(std::alloc::Layout::new::<[u8; 100_000]>());
    /// let after = Alloc::stats();
    /// assert!(after.large_bytes >= before.large_bytes + 100_000);
    /// println!("{after}");
    /// # unsafe { baton_alloc::free(object, std::alloc::Layout::new::<[u8; 100_000]>()) };
    /// ```
    #[must_use]
    pub fn stats() -> Stats {
        stats()
    }

    /// Writes the report of [`stats`](Self::stats) to standard error, as C's `malloc_stats` does. Allocates nothing.
    pub fn report() {
        // Writing never fails here, and there is nobody to tell.
        let _ = writeln!(Stderr::new(), "{}", stats());
    }
}

/// Bytes in MiB.
fn mib(bytes: usize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// `part` of `whole` in percent; of nothing, all.
fn percent(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 100.0 } else { 100.0 * part / whole }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let small_allocs = (self.allocs - self.large_allocs) as f64;
        writeln!(f, "Baton's heap")?;
        let mut size = |name: &str, bytes: usize| writeln!(f, "  {name:<24} {:>10.1} MiB", mib(bytes));
        size("address space", self.mapped_bytes)?;
        size("… metadata", self.metadata_bytes)?;
        size("… object arenas", self.object_arenas * ARENA)?;
        size("… stack arenas", self.stack_arenas * ARENA)?;
        size("small objects: spans", self.small_span_bytes)?;
        size("  live", self.small_live_bytes)?;
        size("  cached", self.cached_bytes)?;
        size("  central", self.central_bytes)?;
        size("  tails", self.classes.iter().map(ClassStats::tail_bytes).sum())?;
        size("large objects", self.large_bytes)?;
        size("  cached", self.large_cached_bytes)?;
        size("stacks", self.stack_bytes)?;
        size("other spans", self.manual_bytes)?;
        size("free pages", self.free_page_bytes())?;
        size("  with memory behind", self.free_bytes)?;
        size("given back", self.released_bytes)?;
        writeln!(f, "  {:<24} {:>10} {:>10}", "allocated, freed", self.allocs, self.frees)?;
        let from_lists = percent(self.hits as f64, small_allocs);
        writeln!(
            f,
            "  {:<24} {from_lists:>8.1} % {:>10}",
            "… from lists, direct", self.direct_allocs
        )?;
        writeln!(
            f,
            "  {:<24} {:>10} {:>10}",
            "refills, flushes", self.refills, self.flushes
        )?;
        writeln!(f, "  {:<24} {:>10} {:>10}", "mcaches, leases", self.caches, self.leases)?;
        writeln!(
            f,
            "\n  {:>6} {:>11} {:>11} {:>11} {:>11} {:>8} {:>7}",
            "size", "spans KiB", "live", "cached", "central", "tails B", "in use"
        )?;
        for class in self.classes.iter().filter(|class| class.span_bytes > 0) {
            let in_use = percent((class.live * class.size) as f64, class.span_bytes as f64);
            writeln!(
                f,
                "  {:>6} {:>11} {:>11} {:>11} {:>11} {:>8} {in_use:>5.0} %",
                class.size,
                class.span_bytes / 1024,
                class.live,
                class.cached,
                class.central,
                class.tail_bytes()
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{free, malloc};
    use core::alloc::Layout;

    /// What the report says of a class nobody else uses.
    #[test]
    fn a_class_has_its_line() {
        let layout = Layout::from_size_align(26_000, 8).unwrap();
        let line = || {
            let text = stats().to_string();
            let line = text.lines().find(|line| line.trim_start().starts_with("26624 "))?;
            let words: Vec<_> = line.split_whitespace().map(str::to_string).collect();
            Some(words)
        };
        assert_eq!(line(), None);
        let objects: Vec<_> = (0..9).map(|_| malloc(layout)).collect();
        let words = line().unwrap();
        assert_eq!(words[2], "9");
        for object in objects {
            // SAFETY: allocated above, with this layout.
            unsafe { free(object, layout) };
        }
        let words = line().unwrap();
        assert_eq!(words[2], "0");
        assert_ne!(words[3], "0", "nothing is cached");
    }
}
