//! The threads that run a program's tasks, each of which waits for sockets itself.
//!
//! Every worker without a task waits on the same epoll instance, and the kernel wakes one of them for each socket that is
//! ready: that thread runs the socket's task at once. Between a packet and the task that wants it stands no other
//! thread, which is what a round trip through a tunnel costs most (a hand-over is a system call here and a wake-up
//! there). What a worker wakes while it runs a task it runs next itself, unless there is more than one and another
//! worker has nothing to do. A task that was woken while it ran, as one that gives way to others, stands behind those
//! that were woken by an event, so that a bulk copy does not hold up a round trip.
//!
//! Only [`Source`](crate::source::Source)s are waited for here. Timers and signals are async-io's, whose own thread hands
//! their tasks over.

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    future::Future,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread,
};

use async_task::{Builder, Runnable, ScheduleInfo, Task, WithInfo};
use rustix::{
    buffer::spare_capacity,
    event::{
        EventfdFlags,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
        eventfd,
    },
    io::Errno,
    time::Timespec,
};

use crate::source::Watch;

/// More threads gain nothing (bulk bytes are bound by memory and cipher, not by scheduling) and cost stack and wake-ups.
const MOST_WORKERS: usize = 4;
const STACK: usize = 512 * 1024;
/// After so many tasks that events woke, one that gave way has its turn.
const STREAK: usize = 8;
/// Events that a worker takes which has tasks to run already; one without takes one and leaves the others the rest.
const BATCH: usize = 16;
/// The bell's number among the sources.
const BELL: u64 = 0;

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// Starts the workers, unless they run already: as many as there are cores, at most four.
///
/// # Errors
/// If the system gives no epoll instance, or not one thread.
pub fn start() -> io::Result<()> {
    static STARTED: OnceLock<usize> = OnceLock::new();
    let pool = Pool::get()?;
    let started = STARTED.get_or_init(|| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        (1..=workers(cores)).filter(|number| start_one(pool, *number)).count()
    });
    if *started > 0 { Ok(()) } else { Err(io::Error::other("the system gives no thread to work on")) }
}

/// One thread less is slower, not wrong: a board out of threads still runs.
fn start_one(pool: &'static Pool, number: usize) -> bool {
    let named = thread::Builder::new().name(format!("hive-{number}")).stack_size(STACK);
    let started = named.spawn(|| pool.work());
    if let Err(e) = &started {
        log::error!("cannot start a worker thread: {e}");
    }
    started.is_ok()
}

/// Workers on a board with this many cores.
fn workers(cores: usize) -> usize {
    cores.clamp(1, MOST_WORKERS)
}

/// Runs a future on the workers; dropping the task cancels it.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    if let Err(e) = start() {
        log::error!("there are no worker threads: {e}");
    }
    let schedule = |runnable, info: ScheduleInfo| match Pool::get() {
        Ok(pool) => pool.push(runnable, info.woken_while_running),
        // Dropped, the task is cancelled: nothing could ever run it.
        Err(e) => log::error!("cannot run a task: {e}"),
    };
    let (runnable, task) = Builder::new().propagate_panic(true).spawn(|()| future, WithInfo(schedule));
    runnable.schedule();
    task
}

/// A future that lets every task go first that an event has woken: whenever it is woken itself it gives way once, as a bulk
/// copy does after its turn. For what is long and not urgent, such as the cryptography of a handshake.
pub(crate) struct GiveWay<F> {
    inner: F,
    has_given_way: bool,
}

impl<F> GiveWay<F> {
    pub(crate) fn new(inner: F) -> Self {
        Self { inner, has_given_way: false }
    }
}

impl<F: Future + Unpin> Future for GiveWay<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.has_given_way = !self.has_given_way;
        if self.has_given_way {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// What all workers share.
pub(crate) struct Pool {
    epoll: OwnedFd,
    /// Written to by whoever is no worker, to wake one.
    bell: OwnedFd,
    tasks: Mutex<Tasks>,
    watches: Mutex<HashMap<u64, Arc<Watch>>>,
    next: AtomicU64,
}

#[derive(Default)]
struct Tasks {
    /// Woken by something that happened.
    ready: VecDeque<Runnable>,
    /// Woken while they ran.
    later: VecDeque<Runnable>,
    /// Of `ready` since the last one of `later`.
    streak: usize,
    /// Workers that wait for events.
    waiting: usize,
}

impl Tasks {
    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.later.is_empty()
    }

    fn take(&mut self) -> Option<Runnable> {
        if (self.streak < STREAK || self.later.is_empty())
            && let Some(task) = self.ready.pop_front()
        {
            self.streak += 1;
            return Some(task);
        }
        self.streak = 0;
        self.later.pop_front()
    }
}

/// What a worker does next.
enum Turn {
    Run(Runnable),
    /// Look for events, without waiting.
    Look,
    /// Wait for an event.
    Wait,
}

impl Pool {
    /// The one of this process.
    pub(crate) fn get() -> io::Result<&'static Self> {
        static POOL: OnceLock<Result<Pool, Errno>> = OnceLock::new();
        POOL.get_or_init(Self::new).as_ref().map_err(|errno| (*errno).into())
    }

    fn new() -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edge-triggered: each ring wakes one worker, and nobody has to read it.
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        let (tasks, watches) = (Mutex::default(), Mutex::default());
        Ok(Self { epoll, bell, tasks, watches, next: AtomicU64::new(BELL + 1) })
    }

    /// Enters what is to be told of a source's events; returns the source's number.
    pub(crate) fn enter(&self, watch: Arc<Watch>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.watches).insert(number, watch);
        number
    }

    /// Forgets a source.
    pub(crate) fn leave(&self, number: u64) {
        lock(&self.watches).remove(&number);
    }

    /// Where sources are waited for.
    pub(crate) fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    fn push(&self, task: Runnable, again: bool) {
        let mut tasks = lock(&self.tasks);
        if again {
            tasks.later.push_back(task)
        } else {
            tasks.ready.push_back(task)
        }
        let ring = tasks.waiting > 0 && !IS_WORKER.get();
        drop(tasks);
        if ring {
            self.ring();
        }
    }

    fn ring(&self) {
        // It fails only where so many rings were never read that the counter is full: 2^64 of them.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn work(&self) {
        IS_WORKER.set(true);
        let (mut waited, mut looked) = (false, true);
        loop {
            let turn = self.turn(waited, looked);
            (waited, looked) = (matches!(turn, Turn::Wait), !matches!(turn, Turn::Run(_)));
            match turn {
                // A task's panic is its awaiter's.
                Turn::Run(task) => drop(task.run()),
                Turn::Look => self.events(BATCH, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })),
                Turn::Wait => self.events(1, None),
            }
        }
    }

    fn turn(&self, waited: bool, looked: bool) -> Turn {
        let mut tasks = lock(&self.tasks);
        tasks.waiting -= usize::from(waited);
        if !looked && !tasks.is_empty() {
            return Turn::Look;
        }
        let Some(task) = tasks.take() else {
            tasks.waiting += 1;
            return Turn::Wait;
        };
        let ring = tasks.waiting > 0 && !tasks.is_empty();
        drop(tasks);
        if ring {
            self.ring();
        }
        Turn::Run(task)
    }

    /// Tells the sources that are ready.
    fn events(&self, most: usize, timeout: Option<&Timespec>) {
        let mut events: Vec<Event> = Vec::with_capacity(most);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => log::error!("cannot wait for sockets: {e}"),
        }
        for event in events {
            let watch = lock(&self.watches).get(&event.data.u64()).cloned();
            if let Some(watch) = watch {
                watch.happened(event.flags);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_follow_the_board() {
        assert_eq!([0, 1, 2, 4, 64].map(workers), [1, 1, 2, 4, 4]);
    }

    #[test]
    fn who_gives_way_asks_for_another_turn_and_then_goes_on() {
        struct Woken(AtomicU64);
        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let woken = Arc::new(Woken(AtomicU64::new(0)));
        let waker = woken.clone().into();
        let mut polled = 0;
        let steps = std::future::poll_fn(|_| {
            polled += 1;
            if polled < 2 { Poll::Pending } else { Poll::Ready(()) }
        });
        let mut behind = GiveWay::new(steps);
        let mut poll = || Pin::new(&mut behind).poll(&mut Context::from_waker(&waker));
        // Each step takes two polls, of which the first asks for the second.
        assert_eq!([poll(), poll(), poll(), poll()], [Poll::Pending, Poll::Pending, Poll::Pending, Poll::Ready(())]);
        assert_eq!((woken.0.load(Ordering::Relaxed), polled), (2, 2));
    }
}
