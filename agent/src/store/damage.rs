//! What LMDB does not survive: it trusts the pages of its file, so one that is damaged, or missing because the file was
//! cut off, ends the process by a signal. At start, when everything is read once, that signal becomes an error in words.

#![allow(unsafe_code, reason = "signal actions have no safe interface that admits these signals")]

use std::{
    mem::{self, MaybeUninit},
    path::Path,
    ptr,
    sync::OnceLock,
};

use libc::{c_int, sigaction};

/// What a page that is none leads to: wild reads, reads behind the file's end, LMDB's own assertions.
const SIGNALS: [c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGFPE];
/// The handler's last words, written beforehand: it may not allocate.
static LAST_WORDS: OnceLock<Vec<u8>> = OnceLock::new();

/// The error in words.
pub fn describe(folder: &Path, detail: &str) -> String {
    let folder = folder.display();
    format!(
        "the state database in {folder} is damaged ({detail}): put back a copy of the folder, or move it away to begin \
         as a new node, which has to be registered again"
    )
}

/// Runs `work`, which reads the state in `folder`. If reading it kills the process, it ends with status 1 and the reason
/// on standard error. Only one thread may do so at a time.
pub fn survived<T>(folder: &Path, work: impl FnOnce() -> T) -> T {
    LAST_WORDS.get_or_init(|| format!("error: {}\n", describe(folder, "a page of it cannot be read")).into_bytes());
    let before = SIGNALS.map(|signal| (signal, replace(signal, &ours())));
    let outcome = work();
    for (signal, action) in before {
        replace(signal, &action);
    }
    outcome
}

fn ours() -> sigaction {
    // SAFETY: all zeroes is a valid action: the default one, with an empty mask.
    let mut action: sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = give_up as *const () as libc::sighandler_t;
    action
}

/// Installs an action and answers the one before.
fn replace(signal: c_int, action: &sigaction) -> sigaction {
    let mut before = MaybeUninit::<sigaction>::zeroed();
    // SAFETY: both point to actions for the whole call; zeroes are a valid one where the kernel refuses.
    unsafe {
        libc::sigaction(signal, ptr::from_ref(action), before.as_mut_ptr());
        before.assume_init()
    }
}

extern "C" fn give_up(_: c_int) {
    // Only what is safe in a handler: a write without a lock, and an exit without destructors.
    if let Some(words) = LAST_WORDS.get() {
        let _ = rustix::io::write(rustix::stdio::stderr(), words);
    }
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(1) }
}
