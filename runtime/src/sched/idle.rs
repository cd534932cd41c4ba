//! Idle Ms and Ps: who sleeps, who wakes them, and how an M without a P gets one.
//!
//! The protocol that makes sure that no wake-up is lost although the pusher has no fence stands in `README.md`, with its
//! proof sketch and the tests that check it.
//!
//! An idle M sleeps on its note. One of them, the *keeper*, sleeps only until the next timer is due; one, the *poller*, sleeps where
//! files that become ready wake it ([`netpoll`]). That may be the same one.

use super::{
    Sched, find, habit,
    netpoll::{self, Events},
    pusher_fence, ready,
};
use crate::{
    m::{self, M},
    p::P,
    time::{self, heap::NEVER},
};
use baton_alloc::{current, latch};
use std::{
    ptr::{self, NonNull},
    sync::atomic::Ordering::{AcqRel, Relaxed, SeqCst},
    time::Duration,
};

/// What has nothing to do. Under the scheduler's `idle` lock.
pub(super) struct Idle {
    ps: Vec<&'static P>,
    ms: Vec<&'static M>,
}

impl Idle {
    /// All Ps idle, and no M made yet.
    pub(super) fn new(ps: impl Iterator<Item = &'static P>) -> Self {
        Self {
            ps: ps.collect(),
            ms: Vec::new(),
        }
    }
}

/// What a pusher does after a push: wakes an M if one could take what was pushed, and the sysmon if it dozes.
///
/// A goroutine that merely runs next on `own`, or is one of few on a ring where turns are short, is no reason to wake anybody:
/// its P is about to take it. If it does not, the sysmon sees to it.
#[inline]
pub(super) fn pushed(sched: &'static Sched, own: Option<&'static P>) {
    if sched.idle_ps.load(Relaxed) != 0 && sched.spinning.load(Relaxed) == 0 && own.is_none_or(P::has_surplus) {
        wake_one(sched);
    }
    sched.sysmon.alert();
}

/// Wakes one M to look for work, if there is an idle P for it and nobody looks already (Go's wakep).
#[cold]
pub(super) fn wake_one(sched: &'static Sched) {
    if sched.spinning.compare_exchange(0, 1, AcqRel, Relaxed).is_err() {
        return;
    }
    let m = {
        let mut idle = sched.idle.lock();
        let m = if idle.ps.is_empty() {
            None
        } else {
            pop_m(sched, &mut idle)
        };
        if idle.ps.is_empty() || (m.is_none() && !sched.sysmon.may_make_m(sched)) {
            // Under the lock: who publishes himself after this is seen together with it.
            sched.spinning.fetch_sub(1, AcqRel);
            return;
        }
        m
    };
    start(sched, m);
}

/// One M less looks for work. If it was the last and a P is idle, another M may be needed: for what was pushed while it
/// looked nobody was woken.
pub(super) fn stop_spinning(sched: &'static Sched) {
    if sched.spinning.fetch_sub(1, AcqRel) == 1 && sched.idle_ps.load(SeqCst) != 0 {
        drop(latch::barrier());
        if sched.has_work(time::now) {
            wake_one(sched);
        }
    }
}

/// Wakes `m` as a spinning M, or has one made.
fn start(sched: &'static Sched, m: Option<&'static M>) {
    match m {
        Some(m) => {
            m.spinning.store(true, Relaxed);
            m.note.wake();
            netpoll::interrupt(m);
        }
        None => sched.sysmon.request_m(),
    }
}

/// Takes an M off the idle list: the one that went idle last, but the keeper and the poller only if there is no other.
fn pop_m(sched: &Sched, idle: &mut Idle) -> Option<&'static M> {
    let last = idle.ms.len().checked_sub(1)?;
    let (keeper, poller) = (sched.keeper.load(Relaxed), sched.poller.load(Relaxed));
    let has_office = |m: &M| ptr::eq(m, keeper) || ptr::eq(m, poller);
    let at = (0..=last).rev().find(|&at| !has_office(idle.ms[at]));
    let m = idle.ms.remove(at.unwrap_or(last));
    dismiss(sched, m);
    Some(m)
}

/// Leaves the timers, if `m` had them in its keeping, to the next M that goes idle. Under the idle lock. (The poller leaves its office
/// itself.)
fn dismiss(sched: &Sched, m: &M) {
    if ptr::eq(sched.keeper.load(Relaxed), m) {
        sched.keeper.store(ptr::null_mut(), Relaxed);
        sched.keeper_until.store(0, SeqCst);
    }
}

/// Has an M look after the files that are watched, if nobody does and one is to be had. In vain, if the others are all busy: they
/// look now and then.
pub(super) fn recruit(sched: &'static Sched) {
    let m = {
        let mut idle = sched.idle.lock();
        if !sched.poller.load(Relaxed).is_null() {
            return;
        }
        pop_m(sched, &mut idle)
    };
    if m.is_some() || (sched.idle_ps.load(SeqCst) != 0 && sched.sysmon.may_make_m(sched)) {
        sched.spinning.fetch_add(1, AcqRel);
        start(sched, m);
    }
}

/// Takes an idle M for a P that is about to be taken, before it is: so that no P is ever left without a runner. Counts
/// it as spinning.
pub(super) fn reserve_m(sched: &Sched) -> Option<&'static M> {
    let m = pop_m(sched, &mut sched.idle.lock())?;
    sched.spinning.fetch_add(1, AcqRel);
    Some(m)
}

/// Lets an M that [`reserve_m`] or the sysmon made run.
pub(super) fn start_reserved(m: &'static M) {
    start(m.sched, Some(m));
}

/// Puts a P that nobody has on the idle list.
pub(super) fn release_p(sched: &Sched, p: &'static P) {
    let mut idle = sched.idle.lock();
    idle.ps.push(p);
    publish(sched, &idle);
}

fn publish(sched: &Sched, idle: &Idle) {
    sched
        .idle_ps
        .store(u32::try_from(idle.ps.len()).unwrap_or(u32::MAX), SeqCst);
}

/// How many Ms are asleep.
pub(super) fn asleep(sched: &Sched) -> usize {
    sched.idle.lock().ms.len()
}

/// Whether each M is asleep, or has no thread.
pub(super) fn all_asleep(sched: &Sched) -> bool {
    awake(sched).is_empty()
}

/// The Ms that have a thread and are not asleep.
pub(super) fn awake(sched: &Sched) -> Vec<&'static M> {
    let idle = sched.idle.lock();
    let mut ms = sched.sysmon.living_ms();
    ms.retain(|&m| !idle.ms.iter().any(|&sleeper| ptr::eq(sleeper, m)));
    ms
}

/// Takes P, which is to retire, off the idle list. `false`: it is not there.
pub(super) fn withdraw_p(sched: &Sched, p: &'static P) -> bool {
    let mut idle = sched.idle.lock();
    let Some(at) = idle.ps.iter().position(|&other| ptr::eq(other, p)) else {
        return false;
    };
    idle.ps.swap_remove(at);
    publish(sched, &idle);
    true
}

/// After Ps were made idle by one who does not go to sleep: looks whether there is work for them. As for a sleeper, what
/// was pushed before is found by the look, and whoever pushes after it sees the Ps.
pub(super) fn look_again(sched: &'static Sched) {
    drop(latch::barrier());
    if sched.idle_ps.load(SeqCst) != 0 && sched.has_work(time::now) {
        wake_one(sched);
    }
}

/// Gives this M, which has none, an idle P: one with goroutines, else the one with the earliest timer.
pub(super) fn acquire_p(m: &'static M) -> bool {
    if let Some(given) = m.inbox.take_given() {
        m.bind(given);
        return true;
    }
    let p = {
        let mut idle = m.sched.idle.lock();
        let rank = |p: &P| (p.runq.len() == 0 && !p.runq.has_next(), p.due.load(Relaxed));
        let Some(at) = (0..idle.ps.len()).rev().min_by_key(|&i| rank(idle.ps[i])) else {
            return false;
        };
        let p = idle.ps.swap_remove(at);
        publish(m.sched, &idle);
        p
    };
    m.bind(p);
    pusher_fence();
    m.sched.sysmon.alert();
    true
}

/// Whether this M has a P, after a try to get an idle one if it has not. Does not wait and stays on the thread.
#[inline]
pub(super) fn rejoin(m: &'static M) -> bool {
    m.has_p() || (m.sched.idle_ps.load(Relaxed) != 0 && m.world().is_none() && rejoin_idle(m))
}

#[cold]
fn rejoin_idle(m: &'static M) -> bool {
    !habit::goes_on(m) && acquire_p(m)
}

/// Where every call that may park begins: a goroutine whose P was taken (it blocked, or computed for too long) gets an
/// idle P or waits its turn in the global queue. With a P this costs three loads, each of what the one before led to.
#[inline]
pub(crate) fn checkpoint() {
    if current::p().is_none_or(|p| p.kind() != latch::Kind::Processor) {
        checkpoint_without_p();
    }
}

/// In a plain thread, in a simulation, or without a P.
#[inline(never)]
fn checkpoint_without_p() {
    if let Some((m, g)) = m::current_goroutine()
        && !m.has_p()
        && !std::thread::panicking()
    {
        wait_turn(m, g);
    }
}

#[cold]
fn wait_turn(m: &'static M, g: NonNull<crate::g::G>) {
    if m.world().is_some() {
        // In a simulation the seed chooses at each parking call who goes on.
        // SAFETY: on the goroutine's stack.
        return unsafe { find::suspend_yield(m) };
    }
    if habit::goes_on(m) || rejoin(m) {
        return;
    }
    let mut place = (m.sched, g);
    /// # Safety
    ///
    /// The pointer is to `place` below, on the suspended goroutine's stack.
    unsafe fn queue(place: *mut ()) -> bool {
        // SAFETY: as the caller promised; copied out before the goroutine can run again.
        let (sched, g) = unsafe { *place.cast::<(&'static Sched, NonNull<crate::g::G>)>() };
        ready::put_global(sched, g);
        true
    }
    // SAFETY: on the goroutine's stack, where `place` stays until g0 has run `queue`.
    unsafe { find::suspend(m, (queue, (&raw mut place).cast())) };
}

/// How often an M gets up in vain at once, for goroutines that wait on Ps whose owners are busy.
const GET_UPS: u32 = 2;

/// Its first nap after that; from there it doubles three times.
const NAP: Duration = Duration::from_micros(50);

/// How long the keeper sleeps at least while a timer is due that only the owners of the Ps can fire.
const OTHERS: Duration = Duration::from_micros(400);

/// How an idle M's sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sleep {
    /// There may be work.
    Over,
    /// It has slept for long, and there are enough others: it is on no list, and may end.
    Retired,
}

/// Gives this M's P up, sleeps until there is work or a timer is due, and comes back, without a P.
pub(super) fn sleep(m: &'static M) -> Sleep {
    let sched = m.sched;
    let was_spinning;
    // 1. Publish: the P is idle, and this M sleeps.
    let tickets;
    let (keeper, polls, surplus) = {
        let unbound = m.unbind(); // waits for a thief; so before the lock that all share
        // Before a waker can find this M and say that it spins on the waker's behalf; counted down after that, see below.
        was_spinning = m.spinning.swap(false, Relaxed);
        let mut idle = sched.idle.lock();
        if let Some(p) = unbound {
            idle.ps.push(p);
            publish(sched, &idle);
        }
        if m.inbox.has_mail() && !idle.ps.is_empty() {
            m.spinning.store(was_spinning, Relaxed);
            return Sleep::Over; // to take a P and the mail
        }
        // Mail, but no P: whoever has one will bring the goroutine back together with it.
        tickets = m.inbox.take_all();
        idle.ms.push(m);
        let free = sched.keeper.load(Relaxed).is_null();
        if free {
            sched.keeper.store(ptr::from_ref(m).cast_mut(), Relaxed);
            sched.keeper_until.store(NEVER, SeqCst);
        }
        let polls = netpoll::is_used() && sched.poller.load(Relaxed).is_null();
        m.polls.store(polls, Relaxed);
        if polls {
            sched.poller.store(ptr::from_ref(m).cast_mut(), SeqCst);
        }
        let office = free || polls;
        (
            free,
            polls,
            !office && !m.pins.get() && idle.ms.len() > sched.ps.active(),
        )
    };
    if was_spinning {
        sched.spinning.fetch_sub(1, AcqRel);
    }
    if !tickets.is_empty() {
        ready::put_all_global(sched, &tickets);
    }
    // 2. Pay for everybody's fence, and 3. look at everything again.
    let mut until = NEVER;
    let mut nap = None;
    loop {
        drop(latch::barrier());
        let due = if keeper { sched.earliest() } else { NEVER };
        // Work without an idle P is the business of those who have the Ps.
        if sched.idle_ps.load(SeqCst) != 0 && sched.has_work(time::now) {
            nap = nap_after(m);
            if nap.is_none() {
                if leave_list(m) {
                    if polls {
                        sched.poller.store(ptr::null_mut(), SeqCst);
                    }
                    get_up(m);
                    return Sleep::Over;
                }
                break; // somebody has woken us already
            }
        }
        if due == until {
            break;
        }
        // A sleeper that is inserted from now on with an earlier time finds this one; one that came before is found by
        // another look.
        until = due;
        let _idle = sched.idle.lock();
        if !ptr::eq(sched.keeper.load(Relaxed), m) {
            break; // dismissed, and so woken: it must not speak for its successor
        }
        sched.keeper_until.store(until, SeqCst);
    }
    // 4. Sleep.
    let awake_after = if surplus {
        Some(sched.config.retire_after)
    } else {
        (until != NEVER).then(|| {
            let left = until.saturating_sub(time::now());
            // Due, but others have all Ps: the monitor sees to it, and who gives one up looks.
            let others = left == 0 && sched.idle_ps.load(SeqCst) == 0;
            if others { OTHERS } else { Duration::from_nanos(left) }
        })
    };
    let timeout = nap.map_or(awake_after, |nap| Some(awake_after.map_or(nap, |other| other.min(nap))));
    if polls {
        let mut events = Events::new();
        let woken = netpoll::sleep(&m.note, timeout, &mut events);
        sched.poller.store(ptr::null_mut(), SeqCst);
        if !woken && leave_list(m) {
            get_up(m);
        } else if !woken {
            m.note.sleep(None); // a waker was faster
        }
        events.dispatch(); // now that this M spins, nobody else is woken for them
        return Sleep::Over;
    }
    if m.note.sleep(timeout) {
        return Sleep::Over; // the waker took us off the list and made us spinning
    }
    if !leave_list(m) {
        m.note.sleep(None); // a waker was faster than the timeout; its wake-up is on its way
        return Sleep::Over;
    }
    if surplus && nap.is_none() {
        return Sleep::Retired;
    }
    get_up(m);
    Sleep::Over
}

/// There is work, but not for the taking: how long this M, which has got up for such twice in vain, sleeps nevertheless. Those who
/// have it were asked, and wake somebody when they answer.
fn nap_after(m: &'static M) -> Option<Duration> {
    if m.sched.global.len() > 0 {
        return None;
    }
    let before = m.in_vain.replace(m.in_vain.get() + 1);
    let doublings = before.checked_sub(GET_UPS)?.min(3);
    Some(NAP * (1 << doublings))
}

/// Hands this M's P over to another M, with `g` to run next there, and sleeps. `false`: there is no other M and none can
/// be made.
pub(super) fn hand_over(m: &'static M, g: NonNull<crate::g::G>) -> bool {
    let sched = m.sched;
    let other = reserve_m(sched);
    if other.is_none() && !sched.sysmon.may_make_m(sched) {
        return false;
    }
    ready::ready(g);
    if let Some(p) = m.unbind() {
        release_p(sched, p);
    }
    if other.is_none() {
        sched.spinning.fetch_add(1, AcqRel);
    }
    start(sched, other);
    sleep(m); // one too many or not: its next sleep will say
    true
}

/// Brings `g`, which this M has picked, to `home`, the one M that may run it. If that sleeps, this M's P goes along.
pub(super) fn deliver(m: &'static M, home: &'static M, g: NonNull<crate::g::G>) {
    let slept = {
        let mut idle = m.sched.idle.lock();
        home.inbox.put(g); // under the lock: see the invariants of `pinned`
        remove_m(m.sched, &mut idle, home)
    };
    if slept {
        if let Some(p) = m.unbind() {
            home.inbox.give(p);
        }
        m.sched.spinning.fetch_add(1, AcqRel);
        start(m.sched, Some(home));
    }
}

/// Whether a goroutine waits that this M's P could run: a guess.
pub(super) fn somebody_waits(m: &'static M) -> bool {
    m.sched.global.len() > 0 || m.latch().p().and_then(P::of).is_some_and(|p| p.runq.has_any())
}

/// Gives this M's P up, because what this M is about to do will take long: with goroutines on it, to another M, else to
/// whoever needs it. `false`: it had none, or there is no M to go on with it.
pub(super) fn give_up_p(m: &'static M) -> bool {
    let sched = m.sched;
    let Some(p) = m.unbind() else { return false };
    if !p.runq.has_any() {
        release_p(sched, p);
        look_again(sched);
        return true;
    }
    let other = reserve_m(sched);
    if other.is_none() {
        if !sched.sysmon.may_make_m(sched) {
            m.bind(p);
            return false;
        }
        sched.spinning.fetch_add(1, AcqRel);
    }
    release_p(sched, p);
    start(sched, other);
    if other.is_none() {
        order_spare(sched);
    }
    true
}

/// Has an M made for the next handoff, after one for which there was none: where one goroutine blocks there are more, and
/// a thread takes longer to make than to wake.
pub(super) fn order_spare(sched: &'static Sched) {
    if sched.sysmon.may_make_m(sched) {
        sched.spinning.fetch_add(1, AcqRel);
        sched.sysmon.request_m();
    }
}

/// Takes this M off the idle list. `false`: a waker did so, and its wake-up is on its way.
fn leave_list(m: &'static M) -> bool {
    remove_m(m.sched, &mut m.sched.idle.lock(), m)
}

/// Takes `m` off the idle list, if it is on it.
fn remove_m(sched: &Sched, idle: &mut Idle, m: &'static M) -> bool {
    let Some(at) = idle.ms.iter().position(|&other| ptr::eq(other, m)) else {
        return false;
    };
    idle.ms.remove(at);
    dismiss(sched, m);
    true
}

/// Makes this M one that looks for work.
fn get_up(m: &'static M) {
    m.sched.spinning.fetch_add(1, AcqRel);
    m.spinning.store(true, Relaxed);
}

/// Wakes the keeper if it would sleep past `when`.
#[inline]
pub(super) fn timer_inserted(sched: &'static Sched, when: u64) {
    pusher_fence();
    if when < sched.keeper_until.load(Relaxed) {
        wake_keeper(sched);
    }
    sched.sysmon.alert();
}

#[cold]
fn wake_keeper(sched: &'static Sched) {
    let m = {
        let mut idle = sched.idle.lock();
        let keeper = sched.keeper.load(Relaxed);
        let Some(at) = idle.ms.iter().position(|&m| ptr::eq(m, keeper)) else {
            return;
        };
        let m = idle.ms.remove(at);
        dismiss(sched, m);
        m
    };
    sched.spinning.fetch_add(1, AcqRel);
    start(sched, Some(m));
}
