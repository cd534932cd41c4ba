//! The model: channels, parties, their g0s and timers, and every step that can follow a state.

use Dir::{Recv, Send};
use std::{
    collections::{BTreeMap, HashSet},
    mem,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    Gone,
    WokenTwice,
    Stuck,
    Count,
    Exchanged,
    Promised,
    Disorder,
}

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Who finds a node takes it for his, whoever else may have.
    Claim,
    /// A timer does not look which wait it belongs to.
    Number,
    /// Who was not woken by a peer leaves its node on the list.
    Unlink,
    /// Who selected leaves without taking the locks again.
    Relock,
    /// A completion does not look who else can go on now.
    Settle,
    /// Locks are taken in the order of the arms.
    Order,
    /// A rendezvous counts its promises: whoever was promised a message takes the next.
    Counts,
    /// Who finds each message of a queue promised takes the next sender that waits, as at a rendezvous.
    Partner,
    /// A message goes straight to a receiver that waits, whatever is in the queue.
    Past,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Dir {
    Recv,
    Send,
}

/// One operation of a party.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    /// Channel and direction; one, unless it selects.
    cases: &'static [(usize, Dir)],
    select: bool,
    timed: bool,
}

pub(crate) const fn one(cases: &'static [(usize, Dir)]) -> Op {
    Op {
        cases,
        select: false,
        timed: false,
    }
}

pub(crate) const fn select(cases: &'static [(usize, Dir)]) -> Op {
    Op {
        cases,
        select: true,
        timed: false,
    }
}

pub(crate) const fn timed(op: Op) -> Op {
    Op { timed: true, ..op }
}

pub(crate) struct Model {
    pub(crate) capacity: usize,
    pub(crate) scripts: &'static [&'static [Op]],
    pub(crate) fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    party: usize,
    case: usize,
    /// The party's wait that it belongs to.
    wait: u8,
}

/// A message: the party that sends it, and which of its operations that is.
type Message = (usize, usize);

/// A place in the table of a rendezvous (`pairs.rs`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Free,
    Open(Option<Node>),
    Full(Message),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Chan {
    held: bool,
    queue: Vec<Message>,
    places: Vec<Place>,
    promised_out: usize,
    promised_in: usize,
    receivers: Vec<Node>,
    senders: Vec<Node>,
    creditors: Vec<Node>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pc {
    Begin,
    /// Takes its locks, and has so many; the second time, after a wait.
    Locks(usize, bool),
    Parked,
    /// Awake again.
    Back,
    /// Promised what this case is about.
    Complete(usize),
    /// Has claimed this one, and goes on when it has woken it.
    Wake(Node),
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Party {
    op: usize,
    pc: Pc,
    /// Odd while it waits unclaimed.
    ticket: u8,
    wait: u8,
    in_frame: bool,
    woken: bool,
    /// The case of whoever claimed it; a timer leaves none.
    outcome: Option<usize>,
    /// The place that it was promised, at a rendezvous.
    pair: Option<usize>,
    /// What must come, at a rendezvous: the message of who it was paired with.
    expects: Option<Message>,
    /// Waits for a message that was promised.
    creditor: bool,
    /// Channels whose locks g0 has yet to give back.
    commit: Vec<usize>,
    /// The timer that g0 is to set then.
    arm: Option<u8>,
    timers: Vec<u8>,
    /// A timer has claimed it and is about to wake it.
    fired: bool,
    sent: usize,
    received: usize,
    /// What it received last from each channel and sender: which of the sender's operations that was.
    heard: BTreeMap<(usize, usize), usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    chans: [Chan; 2],
    parties: Vec<Party>,
}

type Step = Result<State, Violation>;

impl Model {
    fn op(&self, state: &State, p: usize) -> Op {
        self.scripts[p][state.parties[p].op]
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// The channels of an operation, each once, in the order of their locks.
    fn locks(&self, op: Op) -> Vec<usize> {
        let mut locks: Vec<_> = op.cases.iter().map(|&(c, _)| c).collect();
        if !self.is(Fault::Order) {
            locks.sort_unstable();
        }
        locks.dedup();
        locks
    }

    fn first(&self) -> State {
        let party = Party {
            op: 0,
            pc: Pc::Begin,
            ticket: 0,
            wait: 0,
            in_frame: false,
            woken: false,
            outcome: None,
            pair: None,
            expects: None,
            creditor: false,
            commit: Vec::new(),
            arm: None,
            timers: Vec::new(),
            fired: false,
            sent: 0,
            received: 0,
            heard: BTreeMap::new(),
        };
        State {
            chans: [Chan::default(), Chan::default()],
            parties: vec![party; self.scripts.len()],
        }
    }

    /// All states that can follow.
    fn steps(&self, state: &State) -> Vec<Step> {
        let mut next = Vec::new();
        for p in 0..state.parties.len() {
            self.party(state, p, &mut next);
            self.g0(state, p, &mut next);
            for n in 0..state.parties[p].timers.len() {
                let mut s = state.clone();
                let number = s.parties[p].timers.remove(n);
                let party = &mut s.parties[p];
                if party.ticket == number || self.is(Fault::Number) && party.ticket % 2 == 1 {
                    party.ticket += 1;
                    party.fired = true;
                }
                next.push(Ok(s));
            }
            if state.parties[p].fired {
                let mut s = state.clone();
                s.parties[p].fired = false;
                let node = Node {
                    party: p,
                    case: 0,
                    wait: s.parties[p].wait,
                };
                next.push(s.wake(node).map(|()| s));
            }
        }
        next
    }

    /// What g0 does for a party that parked.
    fn g0(&self, state: &State, p: usize, next: &mut Vec<Step>) {
        let mut s = state.clone();
        let selects = self.scripts[p].get(s.parties[p].op).is_some_and(|op| op.select);
        let party = &mut s.parties[p];
        if let Some(&chan) = party.commit.first() {
            party.commit.remove(0);
            // Which locks there are is written in the frame of who selects.
            let frame = party.in_frame || !selects || party.creditor;
            s.chans[chan].held = false;
            next.push(if frame { Ok(s) } else { Err(Violation::Gone) });
        } else if let Some(number) = party.arm.take() {
            party.timers.push(number);
            next.push(Ok(s));
        }
    }

    fn party(&self, state: &State, p: usize, next: &mut Vec<Step>) {
        match state.parties[p].pc {
            Pc::Begin if self.op(state, p).select => next.push(Ok(state.at(p, Pc::Locks(0, false)))),
            Pc::Begin => {
                let (chan, dir) = self.op(state, p).cases[0];
                if !state.chans[chan].held {
                    let mut s = state.clone();
                    next.push(self.operate(&mut s, p, chan, dir).map(|()| s));
                }
            }
            Pc::Locks(n, again) => self.lock(state, p, n, again, next),
            Pc::Parked if state.parties[p].woken => next.push(Ok(state.at(p, Pc::Back))),
            Pc::Parked | Pc::Done => {}
            Pc::Back => self.back(state, p, next),
            Pc::Complete(case) => {
                let (chan, dir) = self.op(state, p).cases[case];
                if !state.chans[chan].held {
                    let mut s = state.clone();
                    next.push(self.complete(&mut s, p, chan, dir).map(|()| s));
                }
            }
            Pc::Wake(node) => {
                let mut s = state.clone();
                let woken = s.wake(node);
                self.end(&mut s, p);
                next.push(woken.map(|()| s));
            }
        }
    }

    /// Takes the next lock, or, with all of them, looks. The second time it gives each back as soon as the node is off its list.
    fn lock(&self, state: &State, p: usize, n: usize, again: bool, next: &mut Vec<Step>) {
        let op = self.op(state, p);
        let locks = self.locks(op);
        if let Some(&chan) = locks.get(n) {
            if !state.chans[chan].held {
                let mut s = state.at(p, Pc::Locks(n + 1, again));
                if again {
                    self.unlink(&mut s, p, chan);
                } else {
                    s.chans[chan].held = true;
                }
                next.push(Ok(s));
            }
            return;
        }
        let mut unlocked = state.clone();
        if again {
            self.leave(&mut unlocked, p);
            return next.push(Ok(unlocked));
        }
        locks.iter().for_each(|&chan| unlocked.chans[chan].held = false);
        let mut waits = true;
        for (case, &(chan, dir)) in op.cases.iter().enumerate() {
            if self.is_ready(&state.chans[chan], dir) {
                waits = false;
                let mut s = unlocked.clone();
                next.push(self.promise(&mut s, p, chan, dir).map(|promised| {
                    // Not ready after all: once more.
                    s.at(
                        p,
                        if promised {
                            Pc::Complete(case)
                        } else {
                            Pc::Locks(0, false)
                        },
                    )
                }));
            }
        }
        if waits {
            let mut s = state.clone();
            s.park(p, op, op.cases, locks);
            next.push(Ok(s));
        }
    }

    /// A party that was woken.
    fn back(&self, state: &State, p: usize, next: &mut Vec<Step>) {
        let op = self.op(state, p);
        let mut s = state.clone();
        if s.parties[p].creditor {
            s.parties[p].creditor = false;
            s.parties[p].in_frame = false;
            self.end(&mut s, p);
            next.push(Ok(s));
        } else if op.select && !self.is(Fault::Relock) {
            next.push(Ok(s.at(p, Pc::Locks(0, true))));
        } else if op.select || s.parties[p].outcome.is_some() || !s.chans[op.cases[0].0].held {
            // One that timed out takes its node off, under the lock.
            (0..s.chans.len()).for_each(|chan| self.unlink(&mut s, p, chan));
            self.leave(&mut s, p);
            next.push(Ok(s));
        }
    }

    /// Takes the party's nodes off the lists of this channel.
    fn unlink(&self, s: &mut State, p: usize, chan: usize) {
        if !self.is(Fault::Unlink) {
            s.chans[chan].receivers.retain(|node| node.party != p);
            s.chans[chan].senders.retain(|node| node.party != p);
        }
    }

    /// Leaves the frame, and goes on.
    fn leave(&self, s: &mut State, p: usize) {
        let op = self.op(s, p);
        s.parties[p].in_frame = false;
        match s.parties[p].outcome {
            Some(case) if op.select => s.parties[p].pc = Pc::Complete(case),
            _ => self.end(s, p),
        }
    }

    fn end(&self, s: &mut State, p: usize) {
        let party = &mut s.parties[p];
        party.op += 1;
        party.pc = if party.op == self.scripts[p].len() {
            Pc::Done
        } else {
            Pc::Begin
        };
    }

    /// Whether more messages or places of a queue are promised than there are.
    fn has_promised_too_much(&self, chan: &Chan) -> bool {
        chan.promised_out > chan.queue.len() || chan.queue.len() + chan.promised_in > self.capacity
    }

    fn has_room(&self, chan: &Chan) -> bool {
        chan.queue.len() + chan.promised_in < self.capacity
    }

    fn is_ready(&self, chan: &Chan, dir: Dir) -> bool {
        match dir {
            Recv => has_message(chan) || self.takes_partners() && !chan.senders.is_empty(),
            Send => self.has_room(chan) || self.capacity == 0 && !chan.receivers.is_empty(),
        }
    }

    /// Whether who finds no message takes that of a sender that waits.
    fn takes_partners(&self) -> bool {
        self.capacity == 0 || self.is(Fault::Partner)
    }

    /// The first on a list who can be claimed.
    fn claim(&self, s: &mut State, chan: usize, dir: Dir) -> Result<Option<Node>, Violation> {
        loop {
            let list = match dir {
                Recv => &mut s.chans[chan].receivers,
                Send => &mut s.chans[chan].senders,
            };
            if list.is_empty() {
                return Ok(None);
            }
            let node = list.remove(0);
            s.touch(node)?;
            let party = &mut s.parties[node.party];
            if party.ticket % 2 == 1 || self.is(Fault::Claim) {
                party.ticket += party.ticket % 2;
                party.outcome = Some(node.case);
                return Ok(Some(node));
            }
        }
    }

    fn is_plain(&self, s: &State, node: Node) -> bool {
        !self.op(s, node.party).select
    }

    /// Whether promises on this channel are addressed.
    fn pairs(&self) -> bool {
        self.capacity == 0 && !self.is(Fault::Counts)
    }

    /// Two have chosen each other. What must come of that is noted whatever the protocol; where it pairs them, they are told their
    /// place, which has the message if `there`.
    fn pair(&self, s: &mut State, chan: usize, sender: usize, receiver: usize, there: bool) {
        if self.capacity > 0 {
            return;
        }
        let message = (sender, s.parties[sender].op);
        s.parties[receiver].expects = Some(message);
        if !self.pairs() {
            return;
        }
        let places = &mut s.chans[chan].places;
        let free = places.iter().position(|place| *place == Place::Free);
        let pair = free.unwrap_or(places.len());
        if pair == places.len() {
            places.push(Place::Free);
        }
        places[pair] = if there { Place::Full(message) } else { Place::Open(None) };
        s.parties[sender].pair = Some(pair);
        s.parties[receiver].pair = Some(pair);
    }

    /// A message for a receiver that selects, from one that has it.
    fn keep(&self, s: &mut State, chan: usize, sender: usize, receiver: usize) {
        self.pair(s, chan, sender, receiver, true);
        if !self.pairs() {
            let message = (sender, s.parties[sender].op);
            s.chans[chan].promised_out += 1;
            s.chans[chan].queue.push(message);
        }
        s.parties[sender].pair = None;
        s.parties[sender].sent += 1;
    }

    /// A sender that selects and a receiver have chosen each other.
    fn engage(&self, s: &mut State, chan: usize, sender: usize, receiver: usize) {
        self.pair(s, chan, sender, receiver, false);
        if !self.pairs() {
            s.chans[chan].promised_in += 1;
            s.chans[chan].promised_out += 1;
        }
    }

    /// A send or a receive on one channel, under its lock.
    fn operate(&self, s: &mut State, p: usize, chan: usize, dir: Dir) -> Result<(), Violation> {
        match dir {
            Send => {
                let room = self.has_room(&s.chans[chan]);
                let mut message = (p, s.parties[p].op);
                if (room || self.capacity == 0)
                    && let Some(receiver) = self.claim(s, chan, Recv)?
                {
                    if self.is_plain(s, receiver) {
                        s.parties[p].sent += 1;
                        if !self.is(Fault::Past) {
                            s.chans[chan].queue.push(message);
                            message = s.chans[chan].queue.remove(0);
                        }
                        s.receive(receiver.party, chan, message)?;
                    } else {
                        self.keep(s, chan, p, receiver.party);
                    }
                    s.parties[p].pc = Pc::Wake(receiver);
                    return Ok(());
                }
                if room {
                    s.chans[chan].queue.push(message);
                    s.parties[p].sent += 1;
                    self.end(s, p);
                    return Ok(());
                }
            }
            Recv if has_message(&s.chans[chan]) => {
                let message = s.chans[chan].queue.remove(0);
                s.receive(p, chan, message)?;
                match self.let_in(s, chan)? {
                    Some(sender) => s.parties[p].pc = Pc::Wake(sender),
                    None => self.end(s, p),
                }
                return Ok(());
            }
            Recv if !self.takes_partners() => {}
            Recv => match self.claim(s, chan, Send)? {
                Some(sender) if self.is_plain(s, sender) => {
                    s.parties[sender.party].sent += 1;
                    s.receive(p, chan, (sender.party, s.parties[sender.party].op))?;
                    s.parties[p].pc = Pc::Wake(sender);
                    return Ok(());
                }
                Some(sender) => {
                    self.engage(s, chan, sender.party, p);
                    s.wake(sender)?;
                    return self.complete(s, p, chan, Recv);
                }
                None => {}
            },
        }
        let op = self.op(s, p);
        s.chans[chan].held = true;
        s.park(p, op, op.cases, vec![chan]);
        Ok(())
    }

    fn let_in(&self, s: &mut State, chan: usize) -> Result<Option<Node>, Violation> {
        if !self.has_room(&s.chans[chan]) {
            return Ok(None);
        }
        let sender = self.claim(s, chan, Send)?;
        if let Some(sender) = sender {
            if self.is_plain(s, sender) {
                let message = (sender.party, s.parties[sender.party].op);
                s.chans[chan].queue.push(message);
                s.parties[sender.party].sent += 1;
            } else {
                s.chans[chan].promised_in += 1;
            }
        }
        Ok(sender)
    }

    /// Decides for a case; `false` if it was not ready after all.
    fn promise(&self, s: &mut State, p: usize, chan: usize, dir: Dir) -> Result<bool, Violation> {
        match dir {
            Recv if has_message(&s.chans[chan]) => s.chans[chan].promised_out += 1,
            Recv => {
                let Some(sender) = self.claim(s, chan, Send)? else {
                    return Ok(false);
                };
                if self.is_plain(s, sender) {
                    self.keep(s, chan, sender.party, p);
                } else {
                    self.engage(s, chan, sender.party, p);
                }
                s.wake(sender)?;
            }
            Send if self.has_room(&s.chans[chan]) => s.chans[chan].promised_in += 1,
            Send => {
                let Some(receiver) = self.claim(s, chan, Recv)? else {
                    return Ok(false);
                };
                self.engage(s, chan, p, receiver.party);
                if self.is_plain(s, receiver) {
                    s.parties[receiver.party].creditor = true;
                    s.await_message(receiver, chan);
                } else {
                    s.wake(receiver)?;
                }
            }
        }
        Ok(true)
    }

    fn complete(&self, s: &mut State, p: usize, chan: usize, dir: Dir) -> Result<(), Violation> {
        let mut creditor = None;
        let pair = s.parties[p].pair;
        match dir {
            Recv if !s.is_there(chan, pair) => {
                s.parties[p].creditor = true;
                s.chans[chan].held = true;
                let op = Op {
                    timed: false,
                    ..self.op(s, p)
                };
                s.park(p, op, &[], vec![chan]);
                let node = Node {
                    party: p,
                    case: 0,
                    wait: s.parties[p].wait,
                };
                s.await_message(node, chan);
                return Ok(());
            }
            Recv => {
                let message = s.take_promised(chan, pair);
                s.receive(p, chan, message)?;
            }
            Send => {
                let message = (p, s.parties[p].op);
                creditor = s.send_promised(chan, pair, message);
                if let Some(node) = creditor {
                    s.touch(node)?;
                    s.receive(node.party, chan, message)?;
                }
                s.parties[p].sent += 1;
            }
        }
        s.parties[p].pair = None;
        while pair.is_none() && !self.is(Fault::Settle) {
            if has_message(&s.chans[chan])
                && let Some(receiver) = self.claim(s, chan, Recv)?
            {
                if self.is_plain(s, receiver) {
                    let message = s.chans[chan].queue.remove(0);
                    s.receive(receiver.party, chan, message)?;
                } else {
                    s.chans[chan].promised_out += 1;
                }
                s.wake(receiver)?;
            } else if let Some(sender) = self.let_in(s, chan)? {
                s.wake(sender)?;
            } else {
                break;
            }
        }
        match creditor {
            Some(node) => s.parties[p].pc = Pc::Wake(node),
            None => self.end(s, p),
        }
        Ok(())
    }

    /// Explores all there is. Gives the number of states, or the violation that was found first.
    pub(crate) fn explore(&self) -> Result<usize, Violation> {
        let first = self.first();
        let mut seen = HashSet::from([first.clone()]);
        let mut todo = vec![first];
        while let Some(state) = todo.pop() {
            if self.capacity > 0 && state.chans.iter().any(|chan| self.has_promised_too_much(chan)) {
                return Err(Violation::Promised);
            }
            let steps = self.steps(&state);
            if steps.is_empty() {
                if state.parties.iter().any(|party| party.pc != Pc::Done) {
                    return Err(Violation::Stuck);
                }
                let sent: usize = state.parties.iter().map(|party| party.sent).sum();
                let received: usize = state.parties.iter().map(|party| party.received).sum();
                let queued: usize = state.chans.iter().map(|chan| chan.queue.len()).sum();
                let open = |chan: &Chan| chan.places.iter().any(|place| *place != Place::Free);
                if sent != received + queued
                    || state.chans.iter().any(|chan| chan.queue.len() > self.capacity)
                    || state.chans.iter().any(open)
                {
                    return Err(Violation::Count);
                }
            }
            for step in steps {
                let state = step?;
                if !seen.contains(&state) {
                    seen.insert(state.clone());
                    todo.push(state);
                }
            }
        }
        Ok(seen.len())
    }
}

/// Whether there is a message that was promised to nobody.
fn has_message(chan: &Chan) -> bool {
    chan.queue.len() > chan.promised_out
}

impl State {
    /// A party gets a message, which must be the one of who it was paired with, and none that was sent before what it has.
    fn receive(&mut self, p: usize, chan: usize, message: Message) -> Result<(), Violation> {
        let party = &mut self.parties[p];
        party.received += 1;
        party.pair = None;
        let (sender, op) = message;
        if party.heard.insert((chan, sender), op).is_some_and(|last| last > op) {
            return Err(Violation::Disorder);
        }
        match party.expects.take() {
            Some(expected) if expected != message => Err(Violation::Exchanged),
            _ => Ok(()),
        }
    }

    /// Whether the message that was promised is there.
    fn is_there(&self, chan: usize, pair: Option<usize>) -> bool {
        match pair {
            Some(pair) => matches!(self.chans[chan].places[pair], Place::Full(_)),
            None => !self.chans[chan].queue.is_empty(),
        }
    }

    /// Takes it.
    fn take_promised(&mut self, chan: usize, pair: Option<usize>) -> Message {
        let chan = &mut self.chans[chan];
        let Some(pair) = pair else {
            chan.promised_out -= 1;
            return chan.queue.remove(0);
        };
        match mem::replace(&mut chan.places[pair], Place::Free) {
            Place::Full(message) => message,
            other => unreachable!("{other:?}"),
        }
    }

    /// The node of one that was promised a message and waits for it.
    fn await_message(&mut self, node: Node, chan: usize) {
        match self.parties[node.party].pair {
            Some(pair) => self.chans[chan].places[pair] = Place::Open(Some(node)),
            None => self.chans[chan].creditors.push(node),
        }
    }

    /// Puts a message where it was promised, or gives who waits for it.
    fn send_promised(&mut self, chan: usize, pair: Option<usize>, message: Message) -> Option<Node> {
        let chan = &mut self.chans[chan];
        if let Some(pair) = pair {
            let Place::Open(creditor) = chan.places[pair] else {
                unreachable!("a message is put once")
            };
            chan.places[pair] = creditor.map_or(Place::Full(message), |_| Place::Free);
            return creditor;
        }
        chan.promised_in -= 1;
        if chan.creditors.is_empty() {
            chan.queue.push(message);
            return None;
        }
        chan.promised_out -= 1;
        Some(chan.creditors.remove(0))
    }

    fn at(&self, p: usize, pc: Pc) -> Self {
        let mut next = self.clone();
        next.parties[p].pc = pc;
        next
    }

    /// Whoever touches a node relies on its frame.
    fn touch(&self, node: Node) -> Result<(), Violation> {
        let party = &self.parties[node.party];
        if party.in_frame && party.wait == node.wait {
            Ok(())
        } else {
            Err(Violation::Gone)
        }
    }

    fn wake(&mut self, node: Node) -> Result<(), Violation> {
        self.touch(node)?;
        let party = &mut self.parties[node.party];
        if party.woken || party.pc != Pc::Parked {
            return Err(Violation::WokenTwice);
        }
        party.woken = true;
        Ok(())
    }

    /// A node for each case; g0 does the rest.
    fn park(&mut self, p: usize, op: Op, cases: &[(usize, Dir)], locks: Vec<usize>) {
        let party = &mut self.parties[p];
        party.wait += 1;
        party.ticket += 1;
        party.in_frame = true;
        party.woken = false;
        party.outcome = None;
        party.pc = Pc::Parked;
        party.commit = locks;
        party.arm = op.timed.then_some(party.ticket);
        if party.creditor {
            party.ticket += 1; // nobody but a sender that completes may end this wait
        }
        let wait = party.wait;
        for (case, &(chan, dir)) in cases.iter().enumerate() {
            let node = Node { party: p, case, wait };
            match dir {
                Recv => self.chans[chan].receivers.push(node),
                Send => self.chans[chan].senders.push(node),
            }
        }
    }
}
