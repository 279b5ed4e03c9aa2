//! Debian's `miniupnpd` on a router of the lab: what many home routers answer PCP and NAT-PMP with.

use super::find;
use crate::{
    lab::{Host, Router},
    process::{PATIENCE, Process},
    wait::wait_until,
};
use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant},
};

/// The router's public address. The daemon maps nothing behind one from the documentation ranges, which all others of
/// the lab have.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(44, 1, 2, 9);

/// Clients take a clock that is this much behind for one that started anew (RFC 6887, section 8.5), and some more.
const TOLD_APART: Duration = Duration::from_secs(5);

/// A running daemon, which maps ports of a router on request.
pub struct Miniupnpd {
    program: PathBuf,
    router: Router,
    process: Process,
    since: Instant,
}

impl Miniupnpd {
    /// Starts one and gives the router [`PUBLIC`]; says that `test` is left out where it is not installed.
    pub fn start(test: &str, router: &Router) -> Option<Miniupnpd> {
        let program = find(test, "miniupnpd", "miniupnpd-nftables", &[])?;
        let outside = router.outside();
        run(outside, "ip", &["address", "add", &format!("{PUBLIC}/32"), "dev", "eth0"]);
        router.let_mapped_in();
        let process = launch(&program, router);
        Some(Miniupnpd { program, router: router.clone(), process, since: Instant::now() })
    }

    /// Lets a host of the public segment reach [`PUBLIC`].
    pub fn lead(host: &Host) {
        run(host, "ip", &["route", "add", &format!("{PUBLIC}/32"), "dev", "eth0"]);
    }

    /// Ends it and starts another, which knows nothing of what was mapped. It has run for long enough by then for its
    /// successor's clock to tell them apart.
    pub fn restart(self) -> Miniupnpd {
        let Miniupnpd { program, router, mut process, since } = self;
        wait_until("the daemon's clock shows a restart", PATIENCE, || since.elapsed() > TOLD_APART);
        process.kill();
        let process = launch(&program, &router);
        Miniupnpd { program, router, process, since: Instant::now() }
    }

    /// The ports that lead inside at the moment, as `tcp 4180`.
    pub fn mapped(&self) -> Vec<String> {
        let listed = run(self.router.outside(), "nft", &["list", "chain", "inet", "mapper", "nat"]);
        let mut mapped: Vec<String> = listed.lines().filter_map(mapping).collect();
        mapped.sort();
        mapped
    }
}

/// A line such as `iif "eth0" @nh,72,8 0x6 th dport 4180 dnat ip to 10.77.1.2:4180`.
fn mapping(line: &str) -> Option<String> {
    let transport = match line {
        _ if !line.contains("dnat") => return None,
        _ if line.contains("0x11") || line.contains("udp") => "udp",
        _ => "tcp",
    };
    let port = line.split("dport ").nth(1)?.split_whitespace().next()?;
    Some(format!("{transport} {port}"))
}

/// Begins with an empty table of its own, beside the one in which the lab's router translates.
fn launch(program: &PathBuf, router: &Router) -> Process {
    let outside = router.outside();
    let hooks = "table inet mapper; delete table inet mapper; table inet mapper {
        chain forward { }
        chain source { }
        chain nat { }
        chain prerouting { type nat hook prerouting priority dstnat - 1; jump nat; }
    }";
    run(outside, "nft", &[hooks]);
    let folder = outside.folder(&format!("{}-mapper", outside.name()));
    let config = folder.join("miniupnpd.conf");
    let lines = format!(
        "ext_ifname=eth0\next_ip={PUBLIC}\nlistening_ip=lan0\nenable_natpmp=yes\nenable_upnp=no\nsecure_mode=yes\n\
         system_uptime=no\nupnp_table_name=mapper\nupnp_nat_table_name=mapper\nupnp_forward_chain=forward\n\
         upnp_nat_chain=nat\nupnp_nat_postrouting_chain=source\nallow 1024-65535 0.0.0.0/0 1024-65535\n"
    );
    fs::write(&config, lines).expect("a file in the lab's folder");
    let mut command = outside.command(program);
    command.arg("-d").arg("-f").arg(&config).arg("-P").arg(folder.join("pid"));
    let process = Process::start(outside, "miniupnpd", command);
    process.wait_for_line("Listening for NAT-PMP/PCP traffic");
    process
}

fn run(host: &Host, program: &str, arguments: &[&str]) -> String {
    let output = host.command(program).args(arguments).output().expect("a program of Debian's");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
