//! The transfer list of a class: whole chains on their way from one mcache to another, untouched.
//!
//! ```text
//!   a full list ──▶ give ──▶ │ chain │ chain │ chain │ ──▶ take ──▶ an empty list        youngest first
//!                              └ trim: what nobody has wanted since the last look goes to the spans, oldest first
//! ```
//!
//! A thread that only frees and one that only allocates exchange their objects here at one lock for a whole list, and none
//! of the objects is touched or looked up on the way. What lies here belongs to the mcentral, is counted as its own, and is
//! bounded: by [`CHAINS`], and by what has been missed, since every object here keeps a span from becoming free pages. A list that
//! is found empty after it had refused a chain may hold twice as much from then on; what lies unused at a trim halves that. So
//! a program that frees most of what it has finds its spans free, and one that goes up and down finds its chains here.
//! It is plain data behind the lock of the class.

use crate::chain::Chain;

/// How many chains a class may keep.
#[cfg(not(baton_loom))]
const CHAINS: usize = 64;
#[cfg(baton_loom)]
const CHAINS: usize = 2;

/// The most doublings that have a meaning.
const DOUBLINGS: u32 = 20;

/// The transfer list of a class.
#[derive(Debug)]
pub struct Transfer {
    chains: [Chain; CHAINS],
    len: usize,
    /// Objects in the chains.
    objects: usize,
    /// The fewest chains that there were since the last trim.
    low: usize,
    /// How often the room for objects has been doubled.
    doublings: u32,
    /// Whether there was no room for a chain since the list was found empty.
    refused: bool,
}

/// How many objects a transfer list may hold.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Before anything was missed.
    pub least: usize,
    /// At any time.
    pub most: usize,
}

impl Transfer {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            chains: [Chain::EMPTY; CHAINS],
            len: 0,
            objects: 0,
            low: 0,
            doublings: 0,
            refused: false,
        }
    }

    /// How many objects there are.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.objects
    }

    /// Takes the chain that came last.
    pub fn take(&mut self) -> Option<Chain> {
        let Some(last) = self.len.checked_sub(1) else {
            if core::mem::take(&mut self.refused) {
                self.doublings = (self.doublings + 1).min(DOUBLINGS);
            }
            self.low = 0;
            return None;
        };
        self.len = last;
        self.low = self.low.min(last);
        self.objects -= self.chains[last].len as usize;
        Some(self.chains[last])
    }

    /// Takes a chain back. `false`: there is no room, or the chain has more than `longest` objects, which is more than a full
    /// list has: else a chain might grow from cache to cache.
    ///
    /// Two chains of less than `short` objects make one, so that a refill brings more than a few. For that the end of the
    /// chain has to be found, which is done before the lock is taken: see [`Incoming`].
    pub fn give(&mut self, incoming: Incoming, room: Room, short: u32, longest: u32) -> bool {
        let Incoming { chain, last } = incoming;
        let objects = self.objects + chain.len as usize;
        if objects > (room.least << self.doublings).min(room.most) || chain.len > longest {
            self.refused = true;
            return false;
        }
        match (last, self.chains[..self.len].last_mut()) {
            (Some(last), Some(top)) if top.len < short => {
                // SAFETY: the object is the chain's last, and free.
                unsafe { (*last).next = top.head };
                top.head = chain.head;
                top.len += chain.len;
            }
            _ if self.len == CHAINS => {
                self.refused = true;
                return false;
            }
            _ => {
                self.chains[self.len] = chain;
                self.len += 1;
            }
        }
        self.objects = objects;
        true
    }

    /// Takes the oldest chain of those that nobody has wanted since the last time that this gave `None`; with `all`, of all.
    pub fn trim(&mut self, all: bool) -> Option<Chain> {
        if self.len == 0 || self.low == 0 && !all {
            self.low = self.len;
            return None;
        }
        self.doublings = self.doublings.saturating_sub(1);
        let chain = self.chains[0];
        self.chains.copy_within(1..self.len, 0);
        self.len -= 1;
        self.low = self.low.saturating_sub(1);
        self.objects -= chain.len as usize;
        Some(chain)
    }
}

impl Default for Transfer {
    fn default() -> Self {
        Self::new()
    }
}

/// A chain that is to be given, and its last object if it is short.
#[derive(Debug)]
pub struct Incoming {
    chain: Chain,
    last: Option<*mut crate::chain::Free>,
}

impl Incoming {
    /// Looks for the end of a short chain.
    ///
    /// # Safety
    ///
    /// The objects are the caller's.
    #[must_use]
    pub unsafe fn new(chain: Chain, short: u32) -> Self {
        // SAFETY: as the caller promised.
        let last = (0 < chain.len && chain.len < short).then(|| unsafe { chain.last() });
        Self { chain, last }
    }
}

#[cfg(all(test, not(baton_loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_was_missed_is_kept_the_next_time() {
        let mut list = Transfer::new();
        let give = |list: &mut Transfer| {
            // Nobody looks at the objects: the chain is not short.
            let chain = Chain { len: 4, ..Chain::EMPTY };
            // SAFETY: as said, no object is looked for.
            let incoming = unsafe { Incoming::new(chain, 0) };
            list.give(incoming, Room { least: 4, most: 12 }, 0, 4)
        };
        // Nothing was missed yet: there is room for one.
        assert!(give(&mut list) && !give(&mut list));
        assert!(list.take().is_some() && list.take().is_none());
        assert!(give(&mut list) && give(&mut list) && !give(&mut list));
        // However much is missed, there is an end.
        for _ in 0..9 {
            while list.take().is_some() {}
            while give(&mut list) {}
        }
        assert_eq!(list.objects(), 12);
        // What nobody wants goes, and the room with it.
        assert!(list.trim(false).is_none());
        while list.trim(false).is_some() {}
        assert_eq!(list.objects(), 0);
    }

    #[test]
    fn a_chain_that_is_too_long_is_refused() {
        let chain = Chain { len: 5, ..Chain::EMPTY };
        // SAFETY: no object is looked for, since the chain is not short.
        let incoming = unsafe { Incoming::new(chain, 0) };
        assert!(!Transfer::new().give(incoming, Room { least: 9, most: 9 }, 0, 4));
    }
}
