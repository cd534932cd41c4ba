//! The protocol of `src/latch.rs`, one arm for each of its steps, and the protocols that leave one thing out.

use crate::{
    machine::{BUFFER, State, Step, THREADS, Thread, Word},
    words::{FENCE_MODE, FENCED, INSIDE, MS, NONE, NULL, PS, Pc, TAKEN, a_p, an_m, lock, mp, pm, state},
};

/// What a faulty protocol does otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `state` is a word of the P: an M reads `M.p`, sets that P's `INSIDE`, and reads `M.p` again.
    InsidePerP,
    /// Takers do not take `P.lock`.
    NoTakerLock,
    /// Takers fence, but issue no membarrier.
    NoBarrier,
    /// An M that finds no P binds another without a look at its home.
    NoLookHome,
    /// A taker whose membarrier was refused does not look at `FENCED`.
    NoFencedCheck,
    /// A section of the allocator on an M that is `FENCED` finds the bins of the P, although it does not fence.
    NotInVain,
    /// `unlock` is a Relaxed store.
    RelaxedUnlock,
    /// Who has taken an idle P does not mark it.
    UnmarkedIdle,
}

/// The protocol, or a faulty one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Protocol {
    pub(crate) takers: usize,
    /// `FENCE_MODE` at the start.
    pub(crate) fence_mode: bool,
    /// Whether the kernel may refuse a membarrier.
    pub(crate) may_refuse: bool,
    /// Whether stores that are no Release stores may overtake others.
    pub(crate) overtaking: bool,
    pub(crate) fault: Option<Fault>,
}

/// Membarrier mode, without faults.
pub(crate) const MEMBARRIER: Protocol = Protocol {
    takers: 2,
    fence_mode: false,
    may_refuse: false,
    overtaking: false,
    fault: None,
};

pub(crate) type Steps = Vec<(&'static str, State)>;

impl Protocol {
    /// M0 runs P0; M1 has no P yet and P1 is free. All other arrangements are reached from this one.
    pub(crate) fn start(&self) -> State {
        let thread = |pc| Thread::new(pc, NULL, NULL);
        let taker = |n| thread(if n < self.takers { Pc::TryLock } else { Pc::Done });
        let mut start = State {
            memory: 0,
            threads: [thread(Pc::Top), thread(Pc::Top), taker(0), taker(1)],
        };
        start.write(mp(0), a_p(0));
        start.write(pm(0), an_m(0));
        start.threads[0].other = a_p(0);
        start.write(FENCE_MODE, u8::from(self.fence_mode));
        start
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Whether store number `n` of thread `t` may reach memory next. The oldest one may. Where stores overtake each other,
    /// so may any other that is no Release store and has no older store to its word before it.
    fn may_flush(&self, s: &State, t: usize, n: usize) -> bool {
        let (older, store) = (&s.threads[t].stores[..n], s.threads[t].stores[n]);
        let same_word = |s: &u8| s >> 2 == store >> 2;
        store != 0 && (n == 0 || self.overtaking && !self.is_release(store) && !older.iter().any(same_word))
    }

    /// Whether a buffered store is a Release store in `latch.rs`. (The SeqCst store of null to `M.p` counts as Relaxed,
    /// like that of `unbind`.)
    fn is_release(&self, store: u8) -> bool {
        let (word, value) = (usize::from(store >> 2), store & 3);
        let among = |words: [Word; 2]| words.contains(&word);
        let leave = among([state(0), state(1)]) && value & INSIDE == 0;
        let bind_or_undo = among([mp(0), mp(1)]) && value != NULL;
        let unlock = among([lock(0), lock(1)]) && !self.is(Fault::RelaxedUnlock);
        leave || bind_or_undo || unlock || word == FENCE_MODE
    }

    /// All that can happen next.
    pub(crate) fn steps(&self, s: &State, out: &mut Steps) {
        out.clear();
        for t in 0..THREADS {
            for n in 0..BUFFER {
                if self.may_flush(s, t, n) {
                    let mut next = *s;
                    next.flush(t, n);
                    out.push(("(a store reaches memory)", next));
                }
            }
            let mut push = |name, step: Step| {
                if step.fits {
                    out.push((name, step.state));
                }
            };
            if t < MS {
                self.m(t, s, &mut push);
            } else {
                self.taker(t, s, &mut push);
            }
        }
    }

    /// The next steps of M number `m`, which is thread `m`.
    fn m(&self, m: usize, s: &State, push: &mut impl FnMut(&'static str, Step)) {
        let Thread { pc, p, other: home, .. } = s.threads[m];
        let at = s.at(m);
        let index = |p: u8| usize::from(p) - 1;
        // Which word this M announces its sections in.
        let announced = |p: u8| state(if self.is(Fault::InsidePerP) { index(p) } else { m });
        // What `leave` leaves of `state`.
        let outside = s.load(m, state(m)) & FENCED;
        // After `enter` gave None and the section was left.
        let no_p = if self.is(Fault::NoLookHome) {
            Pc::BindLock
        } else {
            Pc::HomeLock
        };
        // Where there is no home yet, `look_home` gives Gone at once.
        let no_p = if home == NULL { Pc::BindLock } else { no_p };
        // Where the mode cannot change, there is nothing to read.
        let fixed = !self.fence_mode && !self.may_refuse;
        match pc {
            Pc::Top => {
                push("stops", at.goto(Pc::Done));
                if home != NULL {
                    push("unbind", at.goto(Pc::UnbindLock));
                }
                if self.is(Fault::InsidePerP) {
                    match s.load(m, mp(m)) {
                        NULL => push("finds no P", at.goto(no_p)),
                        p => push("p = M.p", at.p(p).goto(Pc::SetInside)),
                    }
                } else if outside == 0 {
                    // enter_bins, and enter where the mode is fixed: self.state.store(INSIDE, Relaxed)
                    push("enter: INSIDE", at.store(state(m), INSIDE).goto(Pc::LoadP));
                    if !fixed {
                        push("enter: reads the mode", at.goto(Pc::ReadMode));
                    }
                } else {
                    // enter_bins: bins[FENCED] has nothing
                    let vain = if self.is(Fault::NotInVain) { Pc::LoadP } else { Pc::Vain };
                    push("enter in vain: INSIDE", at.store(state(m), INSIDE).goto(vain));
                    push("enter: fence mode", at.store(state(m), INSIDE | FENCED).goto(Pc::Fence));
                }
            }
            // leave_bins: self.state.store(state, Release)
            Pc::Vain => push("leave in vain: FENCED", at.store(state(m), FENCED).goto(Pc::Top)),
            Pc::SetInside => push("P.inside = 1", at.store(announced(p), 1).goto(Pc::LoadP)),
            // enter: if self.state != 0 || fence_mode() { self.enter_fenced() } else { self.state.store(INSIDE, Relaxed) }
            Pc::ReadMode => match s.load(m, FENCE_MODE) {
                0 => push("enter: membarrier mode", at.store(state(m), INSIDE).goto(Pc::LoadP)),
                _ => push("enter: fence mode", at.store(state(m), INSIDE | FENCED).goto(Pc::Fence)),
            },
            // enter_fenced: fence(SeqCst)
            Pc::Fence if s.flushed(m) => push("enter: fence", at.goto(Pc::LoadP)),
            Pc::Fence => {}
            // enter: let p = self.p.load(Acquire)
            Pc::LoadP => match s.load(m, mp(m)) {
                // The caller closes the section that has no P, and looks home.
                NULL if self.is(Fault::InsidePerP) => {
                    push("P is gone: P.inside = 0", at.store(announced(p), 0).p(NULL).goto(no_p));
                }
                NULL => push("enter: None; leave", at.store(state(m), outside).goto(no_p)),
                now if self.is(Fault::InsidePerP) && now != p => {
                    push(
                        "another P: P.inside = 0",
                        at.store(announced(p), 0).p(NULL).goto(Pc::Top),
                    );
                }
                p => push("enter: has P", at.p(p).goto(Pc::Leave)),
            },
            // Until this step the M uses P. leave: self.state.store(self.state & FENCED, Release)
            Pc::Leave if self.is(Fault::InsidePerP) => {
                push("P.inside = 0", at.store(announced(p), 0).p(NULL).goto(Pc::Top));
            }
            Pc::Leave => push("leave", at.store(state(m), outside).p(NULL).goto(Pc::Top)),

            // look_home(true): home.lock.lock(). look_home(false) gives Busy, and the M comes again later.
            Pc::HomeLock if s.read(lock(index(home))) == 1 => push("look_home: Busy", at.goto(Pc::Top)),
            Pc::HomeLock if s.flushed(m) => push("look_home: lock", at.lock(index(home)).goto(Pc::HomeRead)),
            Pc::HomeLock => {}
            // look_home: let back = home.m == self; home.lock.unlock()
            Pc::HomeRead if s.load(m, pm(index(home))) == an_m(m) => {
                push("look_home: Back", at.unlock(index(home)).goto(Pc::Top));
            }
            Pc::HomeRead => push("look_home: Gone", at.unlock(index(home)).goto(Pc::BindLock)),

            // bind, of any P: p.lock.with(..)
            Pc::BindLock if s.flushed(m) => {
                for p in (0..PS).filter(|&p| s.read(lock(p)) == 0) {
                    push(
                        ["bind P0: lock", "bind P1: lock"][p],
                        at.lock(p).p(a_p(p)).goto(Pc::BindRead),
                    );
                }
            }
            Pc::BindLock => {}
            // bind: if p.m == NONE { p.m = self; self.home = p; self.p = p }
            Pc::BindRead if s.load(m, pm(index(p))) == NONE => {
                let bound = at.store(pm(index(p)), an_m(m)).other(p).store(mp(m), p);
                push("bind: P.m = M, M.p = P", bound.unlock(index(p)).p(NULL).goto(Pc::Top));
            }
            Pc::BindRead => push("bind: fails", at.unlock(index(p)).p(NULL).goto(Pc::Top)),

            // unbind: home.lock.with(..)
            Pc::UnbindLock if s.flushed(m) && s.read(lock(index(home))) == 0 => {
                push("unbind: lock", at.lock(index(home)).goto(Pc::UnbindRead));
            }
            Pc::UnbindLock => {}
            // unbind: if home.m != self { None } else { self.p = null; home.m = NONE }
            Pc::UnbindRead if s.load(m, pm(index(home))) == an_m(m) => {
                let free = at.store(mp(m), NULL).store(pm(index(home)), NONE);
                push("unbind: M.p = null, P.m = NONE", free.unlock(index(home)).goto(Pc::Top));
            }
            Pc::UnbindRead => push("unbind: None", at.unlock(index(home)).goto(Pc::Top)),
            Pc::Done => {}
            _ => unreachable!("an M at {pc:?}"),
        }
    }

    /// The next steps of the taker that is thread `t`.
    fn taker(&self, t: usize, s: &State, push: &mut impl FnMut(&'static str, Step)) {
        let Thread { pc, p, other, .. } = s.threads[t];
        let locks = !self.is(Fault::NoTakerLock);
        let unlock = |step: Step, p| if locks { step.unlock(p) } else { step };
        let at = s.at(t);
        let again = |step: Step| step.p(NULL).other(NULL).goto(Pc::TryLock);
        let p = usize::from(p).wrapping_sub(1);
        let m = usize::from(other).wrapping_sub(2);
        match pc {
            Pc::TryLock => {
                push("stops", at.goto(Pc::Done));
                // suspect, of any P: if !self.lock.try_lock() { return None }, and the taker comes again later
                for p in 0..PS {
                    let (at, name) = (at.p(a_p(p)).goto(Pc::ReadM), ["suspect P0", "suspect P1"][p]);
                    if !locks {
                        push(name, at);
                    } else if s.flushed(t) && s.read(lock(p)) == 0 {
                        push(name, at.lock(p));
                    }
                }
            }
            // suspect: let Some(m) = self.m() else { unlock; return None }; m.p = null
            Pc::ReadM => match s.load(t, pm(p)) {
                // detach_idle: P.m = TAKEN; unlock. Or while_idle: uses P under its lock
                NONE if locks => {
                    let mine = if self.is(Fault::UnmarkedIdle) {
                        at
                    } else {
                        at.store(pm(p), TAKEN)
                    };
                    push("detach an idle P", unlock(mine, p).goto(Pc::Detached));
                    push("borrows an idle P", at.goto(Pc::Borrowed));
                }
                NONE | TAKEN => push("suspect: no M", again(unlock(at, p))),
                m => {
                    let m_index = usize::from(m) - 2;
                    push(
                        "suspect: M.p = null",
                        at.other(m).store(mp(m_index), NULL).goto(Pc::Barrier),
                    );
                }
            },
            // barrier: fence(SeqCst), then !fence_mode() && membarrier::barrier()
            Pc::Barrier if !s.flushed(t) => {}
            Pc::Barrier => {
                if s.load(t, FENCE_MODE) == 1 {
                    push("barrier: fence only", at.goto(Pc::Confirm));
                } else {
                    if s.flushed(m) || self.is(Fault::NoBarrier) {
                        push("barrier: membarrier", at.goto(Pc::Poll));
                    }
                    if self.may_refuse {
                        // barrier: FENCE_MODE.store(1, SeqCst)
                        push("barrier: refused", at.store(FENCE_MODE, 1).goto(Pc::Confirm));
                    }
                }
            }
            // confirm: if !barrier.reached_all && state & FENCED == 0 { return None }, which is the undo. (In the file this
            // and the next look are one load. Two are no less: FENCED stays.)
            Pc::Confirm => {
                if s.load(t, state(m)) & FENCED == 0 && !self.is(Fault::NoFencedCheck) {
                    push("confirm: not fenced; undo", again(unlock(at.store(mp(m), a_p(p)), p)));
                } else {
                    push("confirm: fenced", at.goto(Pc::Poll));
                }
            }
            // confirm: if state & INSIDE == 0 { return Some(Taken) }
            Pc::Poll => {
                let word = state(if self.is(Fault::InsidePerP) { p } else { m });
                if s.load(t, word) & INSIDE == 0 {
                    push("confirm: outside", at.goto(Pc::Owned));
                } else {
                    // Drop of Suspect: m.p = P; unlock. (Polling once more is a step to this very state.)
                    push("confirm: inside; undo", again(unlock(at.store(mp(m), a_p(p)), p)));
                }
            }
            // Until the next step the taker uses P, and after `detach` it goes on until `release`.
            Pc::Owned => {
                // A thief, done with P: Drop of Suspect: m.p = P; unlock
                push("puts P back", again(unlock(at.store(mp(m), a_p(p)), p)));
                // The sysmon. detach: P.m = TAKEN; unlock
                push(
                    "detach: P.m = TAKEN",
                    unlock(at.store(pm(p), TAKEN), p).other(NULL).goto(Pc::Detached),
                );
            }
            // Until this step the taker uses an idle P.
            Pc::Borrowed => push("has borrowed", again(unlock(at, p))),
            // Drop of Detached: self.p.lock.with(..)
            Pc::Detached if !locks => push("takes no lock", at.goto(Pc::ReleaseWrite)),
            Pc::Detached if s.flushed(t) && s.read(lock(p)) == 0 => {
                push("release: lock", at.lock(p).goto(Pc::ReleaseWrite));
            }
            Pc::Detached => {}
            // Drop of Detached: self.p.m = NONE
            Pc::ReleaseWrite => push("release: P.m = NONE", again(unlock(at.store(pm(p), NONE), p))),
            Pc::Done => {}
            _ => unreachable!("a taker at {pc:?}"),
        }
    }

    /// What is wrong with a state, apart from what may follow.
    pub(crate) fn wrong(&self, s: &State) -> Option<Violation> {
        for p in 0..PS {
            let using = |pc| {
                matches!(
                    pc,
                    Pc::Leave | Pc::Owned | Pc::Borrowed | Pc::Detached | Pc::ReleaseWrite
                )
            };
            let uses = |t: &Thread| t.p == a_p(p) && using(t.pc);
            if s.threads.iter().filter(|t| uses(t)).count() > 1 {
                return Some(Violation::TwoUsers);
            }
            let m = s.read(pm(p));
            if m >= an_m(0) && s.threads[usize::from(m - an_m(0))].other != a_p(p) {
                return Some(Violation::Astray);
            }
        }
        None
    }

    /// What is wrong with a state in which nothing can happen any more.
    pub(crate) fn wrong_at_the_end(&self, s: &State) -> Option<Violation> {
        if s.threads.iter().any(|t| t.pc != Pc::Done) {
            return Some(Violation::Stuck);
        }
        let usable = |p| match s.read(pm(p)) {
            NONE => true,
            TAKEN => false,
            m => s.read(mp(usize::from(m - an_m(0)))) == a_p(p),
        };
        let rests = |p| s.read(lock(p)) == 0 && usable(p);
        (!(0..PS).all(rests)).then_some(Violation::Lost)
    }
}

/// What the search found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Two threads use one P's data.
    TwoUsers,
    /// `P.m` names an M whose home is another P, so that one M has two Ps.
    Astray,
    /// A thread waits for ever.
    Stuck,
    /// In the end a P is neither free nor bound to an M that can use it.
    Lost,
}
