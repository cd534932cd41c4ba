//! The forms of Baton's calls that end with a context.

use super::{Context, ContextError, RecvError, SendError};
use crate::{
    JoinError, JoinHandle,
    chan::{Receiver, Sender, select},
    io::Pollable,
    park::{WaitReason, Waiter},
    sched::{checkpoint, netpoll::Interest},
    sync::{
        Barrier, BarrierWaitResult, Condvar, LazyLock, Mutex, MutexGuard, Once, OnceLock, Permit, ReentrantMutex,
        ReentrantMutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore, Until, WaitGroup,
    },
    time::{self, heap::NEVER},
};
use lock_api::RawMutex as _;
use std::{convert::Infallible, future::Future, os::fd::AsFd, time::Duration};

impl Context {
    /// Receives a message, waiting for one until the context ends.
    ///
    /// # Errors
    ///
    /// The context has ended, or the channel has.
    pub fn recv<T>(&self, receiver: &Receiver<T>) -> Result<T, RecvError> {
        self.check()?;
        select! {
            recv(receiver) -> message => message.map_err(|_| RecvError::Disconnected),
            recv(self.done()) -> _ => Err(self.why().into()),
        }
    }

    /// Sends a message, waiting for room until the context ends.
    ///
    /// # Errors
    ///
    /// The context has ended, or all receivers are gone; the error holds the message.
    pub fn send<T>(&self, sender: &Sender<T>, message: T) -> Result<(), SendError<T>> {
        if let Some(error) = self.err() {
            return Err(SendError::Context(error, message));
        }
        select! {
            send(sender, message) -> sent => sent.map_err(|error| SendError::Disconnected(error.into_inner())),
            recv(self.done()) -> _ => Err(SendError::Context(self.why(), message)),
        }
    }

    /// Locks a mutex, waiting for it until the context ends.
    ///
    /// # Errors
    ///
    /// The context has ended.
    pub fn lock<'a, T: ?Sized>(&self, mutex: &'a Mutex<T>) -> Result<MutexGuard<'a, T>, ContextError> {
        self.check()?;
        // SAFETY: the lock is taken, if at all, for the guard below.
        let state = unsafe { mutex.raw() }
            .lock_until(self.until())
            .ok_or_else(|| self.why())?;
        // SAFETY: taken above.
        Ok(unsafe { mutex.make_guard_unchecked(state) })
    }

    /// Locks a mutex that its owner may lock again, waiting for it until the context ends.
    ///
    /// Others may get it between the wake-up and the lock, in which case the wait goes on.
    ///
    /// # Errors
    ///
    /// The context has ended.
    ///
    /// ```
    /// use baton::{context::Context, sync::ReentrantMutex};
    ///
    /// let (mutex, ctx) = (ReentrantMutex::new(1), Context::background());
    /// let outer = ctx.lock_reentrant(&mutex).unwrap();
    /// assert_eq!(*outer, *ctx.lock_reentrant(&mutex).unwrap());
    /// ```
    pub fn lock_reentrant<'a, T: ?Sized>(
        &self,
        mutex: &'a ReentrantMutex<T>,
    ) -> Result<ReentrantMutexGuard<'a, T>, ContextError> {
        self.check()?;
        // lock_api keeps count of owners to itself, so this waits for the lock inside, and then takes the whole.
        loop {
            if let Some(guard) = mutex.try_lock() {
                return Ok(guard);
            }
            // SAFETY: it is taken, if at all, and given back before anything else is done with it.
            let raw = unsafe { mutex.raw() };
            let state = raw.lock_until(self.until()).ok_or_else(|| self.why())?;
            // SAFETY: taken above.
            unsafe { raw.unlock(state) };
        }
    }

    /// Locks for reading, waiting until the context ends.
    ///
    /// # Errors
    ///
    /// The context has ended.
    pub fn read<'a, T: ?Sized>(&self, lock: &'a RwLock<T>) -> Result<RwLockReadGuard<'a, T>, ContextError> {
        self.check()?;
        // SAFETY: the lock is taken, if at all, for the guard below.
        let state = unsafe { lock.raw() }
            .read_until(self.until())
            .ok_or_else(|| self.why())?;
        // SAFETY: taken above.
        Ok(unsafe { lock.make_read_guard_unchecked(state) })
    }

    /// Locks for writing, waiting until the context ends.
    ///
    /// # Errors
    ///
    /// The context has ended.
    pub fn write<'a, T: ?Sized>(&self, lock: &'a RwLock<T>) -> Result<RwLockWriteGuard<'a, T>, ContextError> {
        self.check()?;
        // SAFETY: the lock is taken, if at all, for the guard below.
        let state = unsafe { lock.raw() }
            .write_until(self.until())
            .ok_or_else(|| self.why())?;
        // SAFETY: taken above.
        Ok(unsafe { lock.make_write_guard_unchecked(state) })
    }

    /// Waits for a notification until the context ends. The mutex is held again in either case.
    ///
    /// # Errors
    ///
    /// The context has ended.
    pub fn wait<T: ?Sized>(&self, condvar: &Condvar, guard: &mut MutexGuard<'_, T>) -> Result<(), ContextError> {
        self.check()?;
        let timed_out = condvar.wait_limited(guard, self.until()).timed_out();
        if timed_out { Err(self.why()) } else { Ok(()) }
    }

    /// Waits for `n` permits until the context ends, and takes them.
    ///
    /// # Errors
    ///
    /// The context has ended.
    pub fn acquire<'a>(&self, semaphore: &'a Semaphore, n: usize) -> Result<Permit<'a>, ContextError> {
        self.check()?;
        if semaphore.take(n, self.until()) {
            Ok(Permit::of(semaphore, n))
        } else {
            Err(self.why())
        }
    }

    /// Waits at a barrier until the context ends; then this one has not arrived.
    ///
    /// # Errors
    ///
    /// The context has ended.
    pub fn arrive(&self, barrier: &Barrier) -> Result<BarrierWaitResult, ContextError> {
        self.check()?;
        let leads = barrier.arrive(self.until()).ok_or_else(|| self.why())?;
        Ok(BarrierWaitResult::of(leads))
    }

    /// Leaves a wait group and waits for the others until the context ends.
    ///
    /// # Errors
    ///
    /// The context has ended; the member is in the group again, and comes back.
    pub fn wait_group(&self, group: WaitGroup) -> Result<(), (ContextError, WaitGroup)> {
        match self.check() {
            Ok(()) => group.wait_limited(self.until()).map_err(|group| (self.why(), group)),
            Err(error) => Err((error, group)),
        }
    }

    /// Runs `f` if none has run yet on `once`; if another is at it, waits for that one until the context ends.
    ///
    /// # Errors
    ///
    /// The context has ended while another was at it.
    ///
    /// # Panics
    ///
    /// As [`Once::call_once`].
    pub fn call_once(&self, once: &Once, f: impl FnOnce()) -> Result<(), ContextError> {
        if once.is_completed() {
            return Ok(());
        }
        self.check()?;
        let run = || -> Result<(), Infallible> {
            f();
            Ok(())
        };
        once.call_slow(run, self.until()).map(drop).ok_or_else(|| self.why())
    }

    /// Waits until some function has run on `once`, or the context ends.
    ///
    /// # Errors
    ///
    /// The context has ended.
    pub fn wait_once(&self, once: &Once) -> Result<(), ContextError> {
        self.check()?;
        once.wait_limited(self.until()).then_some(()).ok_or_else(|| self.why())
    }

    /// The value of `lock`, which `f` makes if there is none; if another makes it, waits for that one until the context ends.
    ///
    /// # Errors
    ///
    /// The context has ended while another was at it.
    ///
    /// # Panics
    ///
    /// As [`OnceLock::get_or_init`].
    ///
    /// ```
    /// use baton::{context::Context, sync::OnceLock};
    ///
    /// static NAME: OnceLock<String> = OnceLock::new();
    /// let ctx = Context::background();
    /// assert_eq!(ctx.get_or_init(&NAME, || "baton".into()).unwrap(), "baton");
    /// ```
    pub fn get_or_init<'a, T>(&self, lock: &'a OnceLock<T>, f: impl FnOnce() -> T) -> Result<&'a T, ContextError> {
        if let Some(value) = lock.get() {
            return Ok(value);
        }
        self.check()?;
        match lock.init_slow(|| Ok::<T, Infallible>(f()), self.until()) {
            Some(Ok(value)) => Ok(value),
            None => Err(self.why()),
        }
    }

    /// Waits for the value of `lock` until the context ends.
    ///
    /// # Errors
    ///
    /// The context has ended.
    pub fn wait_value<'a, T>(&self, lock: &'a OnceLock<T>) -> Result<&'a T, ContextError> {
        self.check()?;
        lock.wait_limited(self.until()).ok_or_else(|| self.why())
    }

    /// The value of `lazy`, made now if it was not yet; if another makes it, waits for that one until the context ends.
    ///
    /// # Errors
    ///
    /// The context has ended while another was at it.
    ///
    /// # Panics
    ///
    /// As [`LazyLock::force`].
    ///
    /// ```
    /// use baton::{context::Context, sync::LazyLock};
    ///
    /// static SQUARES: LazyLock<Vec<u32>> = LazyLock::new(|| (0..4).map(|i| i * i).collect());
    /// assert_eq!(Context::background().force(&SQUARES).unwrap()[3], 9);
    /// ```
    pub fn force<'a, T, F: FnOnce() -> T>(&self, lazy: &'a LazyLock<T, F>) -> Result<&'a T, ContextError> {
        if let Some(value) = lazy.made() {
            return Ok(value);
        }
        self.check()?;
        lazy.force_limited(self.until()).ok_or_else(|| self.why())
    }

    /// Waits until a file is readable, or the context ends.
    ///
    /// # Errors
    ///
    /// The context has ended.
    ///
    /// ```
    /// use baton::{context::Context, io::Pollable};
    /// use std::{os::unix::net::UnixStream, time::Duration};
    ///
    /// let (one, _other) = UnixStream::pair().unwrap();
    /// let one = Pollable::new(one).unwrap();
    /// let ctx = Context::background().with_timeout(Duration::from_millis(1));
    /// assert!(ctx.readable(&one).is_err(), "nobody has written");
    /// ```
    pub fn readable<T: AsFd>(&self, file: &Pollable<T>) -> Result<(), ContextError> {
        self.await_file(file, Interest::Read)
    }

    /// Waits until a file is writable, or the context ends.
    ///
    /// # Errors
    ///
    /// The context has ended.
    pub fn writable<T: AsFd>(&self, file: &Pollable<T>) -> Result<(), ContextError> {
        self.await_file(file, Interest::Write)
    }

    fn await_file<T: AsFd>(&self, file: &Pollable<T>, interest: Interest) -> Result<(), ContextError> {
        self.check()?;
        match file.wait(interest, self.until()) {
            true => Ok(()),
            false => Err(self.why()),
        }
    }

    /// Sleeps, but not after the context has ended.
    ///
    /// # Errors
    ///
    /// The context has ended before the time was up.
    pub fn sleep(&self, duration: Duration) -> Result<(), ContextError> {
        checkpoint();
        let until = time::deadline_in(duration);
        while until > time::now() {
            self.check()?;
            self.0.park(&Waiter::new(), WaitReason::Sleep, until, || true);
        }
        Ok(())
    }

    /// Runs a future, but not after the context has ended.
    ///
    /// # Errors
    ///
    /// The context has ended; the future is dropped.
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output, ContextError> {
        self.check()?;
        self.run(future, WaitReason::Future)
    }

    /// Waits for the end of a goroutine until the context ends.
    ///
    /// # Errors
    ///
    /// The context has ended; the goroutine goes on, and its handle comes back. `Ok` has what
    /// [`join`](JoinHandle::join) would give.
    pub fn join<T>(&self, mut handle: JoinHandle<T>) -> Result<Result<T, JoinError>, (ContextError, JoinHandle<T>)> {
        match self.check().and_then(|()| self.run(&mut handle, WaitReason::Join)) {
            Ok(result) => Ok(result),
            Err(error) => Err((error, handle)),
        }
    }

    fn run<F: Future>(&self, future: F, reason: WaitReason) -> Result<F::Output, ContextError> {
        crate::future::run(future, self.until(), reason).ok_or_else(|| self.why())
    }

    /// An error if the context has ended.
    fn check(&self) -> Result<(), ContextError> {
        self.err().map_or(Ok(()), Err)
    }

    /// Why a wait has ended that nothing else did.
    fn why(&self) -> ContextError {
        self.err().unwrap_or(ContextError::DeadlineExceeded)
    }

    fn until(&self) -> Until<'_> {
        Until::end_of(&self.0, NEVER)
    }
}
