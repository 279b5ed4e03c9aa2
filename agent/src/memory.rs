//! What the C library's allocator is told once, at the start.
//!
//! Argon2 takes 19 MiB for a moment. When such a block is freed, glibc takes large blocks for a habit and keeps the
//! next ones: the agent would stay at three times its size for ever. Other C libraries give large blocks back anyway.

/// Size from which a block is mapped on its own and given back when freed: glibc's default, held there.
#[cfg(target_env = "gnu")]
const OWN_MAPPING: i32 = 128 * 1024;

/// Has large blocks given back when they are freed. Call it before anything large is allocated.
pub fn give_back_large_blocks() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it takes two numbers by value; glibc locks what it changes.
        #[allow(unsafe_code)]
        let done = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING) };
        if done != 1 {
            log::debug!("the allocator keeps large blocks");
        }
    }
}
