//! What the machine has, for sizes that follow it: the same program runs on boards of 64 MB and on servers.

/// All of its memory, in bytes. More than an address holds on some machines of 32 bits.
pub fn memory() -> u128 {
    let info = rustix::system::sysinfo();
    u128::from(info.totalram) * u128::from(info.mem_unit)
}
