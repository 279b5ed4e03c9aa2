//! A value that one task replaces and many read: the newest snapshot at once, or the next one when it comes.

use std::sync::{Arc, Mutex, PoisonError};

use event_listener::Event;

/// The newest snapshot, and a bell that rings when it is replaced.
pub struct Watched<T> {
    current: Mutex<Arc<T>>,
    changed: Event,
}

impl<T> Watched<T> {
    /// Begins with `value`.
    pub fn new(value: Arc<T>) -> Self {
        Self { current: Mutex::new(value), changed: Event::new() }
    }

    /// The newest snapshot.
    pub fn get(&self) -> Arc<T> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the snapshot and wakes everybody who waits.
    pub fn set(&self, value: Arc<T>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = value;
        self.changed.notify(usize::MAX);
    }

    /// Waits for a snapshot that `wanted` accepts.
    pub async fn wait_for_snapshot(&self, wanted: impl Fn(&Arc<T>) -> bool) -> Arc<T> {
        loop {
            let changed = self.changed.listen();
            let current = self.get();
            if wanted(&current) {
                return current;
            }
            changed.await;
        }
    }

    /// Waits until `pick` finds something in the newest snapshot.
    pub async fn wait_for<R>(&self, mut pick: impl FnMut(&T) -> Option<R>) -> R {
        loop {
            let changed = self.changed.listen();
            if let Some(found) = pick(&self.get()) {
                return found;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_sees_the_value_it_waits_for() {
        let watched = Arc::new(Watched::new(Arc::new(0)));
        let waiter = watched.clone();
        let task = std::thread::spawn(move || smol::block_on(waiter.wait_for(|n| (*n == 3).then_some(*n))));
        (1..=3).for_each(|n| watched.set(Arc::new(n)));
        assert_eq!(task.join().unwrap(), 3);
    }
}
