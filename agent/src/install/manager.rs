//! The service managers that are known: how one is recognised, what file it wants, and what it is told.

use std::path::Path;

/// A service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// Most distributions.
    Systemd,
    /// Alpine, Gentoo.
    OpenRc,
    /// OpenWrt.
    Procd,
}

/// What a manager is told, in words.
pub type Commands = &'static [&'static [&'static str]];

impl Manager {
    /// The one that runs on the machine with this root; the order is that of `cross/deploy`.
    pub fn of(root: &Path) -> Option<Self> {
        let known =
            [(Self::Systemd, "run/systemd/system"), (Self::Procd, "sbin/procd"), (Self::OpenRc, "sbin/openrc-run")];
        known.into_iter().find_map(|(manager, sign)| root.join(sign).exists().then_some(manager))
    }

    /// Where the service file goes, with its mode and its text.
    pub fn service(self) -> (&'static str, u32, &'static str) {
        match self {
            Self::Systemd => (
                "/etc/systemd/system/hive-agent.service",
                0o644,
                include_str!("../../../cross/service/hive-agent.service"),
            ),
            Self::OpenRc => ("/etc/init.d/hive-agent", 0o755, include_str!("../../../cross/service/hive-agent.openrc")),
            Self::Procd => ("/etc/init.d/hive-agent", 0o755, include_str!("../../../cross/service/hive-agent.procd")),
        }
    }

    /// Where its file expects the agent.
    pub fn program(self) -> &'static str {
        if self == Self::Procd { "/usr/bin/hive-agent" } else { "/usr/local/bin/hive-agent" }
    }

    /// Where its file has the state.
    pub fn state(self) -> &'static str {
        if self == Self::Procd { "/etc/hive/state" } else { "/var/lib/hive" }
    }

    /// What starts the service now and at every boot.
    pub fn start(self) -> Commands {
        match self {
            Self::Systemd => &[
                &["systemctl", "daemon-reload"],
                &["systemctl", "enable", "--quiet", "hive-agent"],
                &["systemctl", "restart", "hive-agent"],
            ],
            Self::OpenRc => &[&["rc-update", "add", "hive-agent", "default"], &["rc-service", "hive-agent", "restart"]],
            Self::Procd => &[&["/etc/init.d/hive-agent", "enable"], &["/etc/init.d/hive-agent", "restart"]],
        }
    }

    /// What stops it, now and for good.
    pub fn stop(self) -> Commands {
        match self {
            Self::Systemd => &[&["systemctl", "disable", "--quiet", "--now", "hive-agent"]],
            Self::OpenRc => &[&["rc-service", "hive-agent", "stop"], &["rc-update", "del", "hive-agent", "default"]],
            Self::Procd => &[&["/etc/init.d/hive-agent", "stop"], &["/etc/init.d/hive-agent", "disable"]],
        }
    }

    /// What makes it forget a service whose file is gone.
    pub fn forget(self) -> Commands {
        if self == Self::Systemd { &[&["systemctl", "daemon-reload"]] } else { &[] }
    }
}
