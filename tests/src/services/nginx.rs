//! nginx ending TLS in front of TCP servers (its stream module): what people compare with.

use crate::{
    lab::Host,
    pki::Certified,
    process::{PATIENCE, Process},
    usage::Usage,
    wait::wait_until,
};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// A running nginx.
pub struct Nginx {
    entrances: Vec<SocketAddr>,
    process: Process,
}

impl Nginx {
    /// Starts the one that `tests/nginx` unpacked into `folder`, with this certificate and a port of the host for each
    /// target. All that is not named here is as its authors set it.
    pub fn start(folder: &Path, host: &Host, set: &Certified, targets: &[SocketAddr]) -> Nginx {
        let entrances: Vec<_> = targets.iter().map(|_| host.at(host.free_port())).collect();
        let own = host.folder("nginx");
        let servers = entrances.iter().zip(targets);
        let servers: String =
            servers.map(|(from, to)| format!("server {{ listen {from} ssl; proxy_pass {to}; }}\n")).collect();
        let path = write(&own, "nginx.conf", &config(folder, &own, set, &servers));
        let mut command = host.command(folder.join("usr/sbin/nginx"));
        command.arg("-c").arg(path).arg("-p").arg(&own).arg("-e").arg(own.join("error.log"));
        let process = Process::start(host, "nginx", command);
        wait_until("nginx listens", PATIENCE, || entrances.iter().all(|entrance| host.connect(*entrance).is_ok()));
        Nginx { entrances, process }
    }

    /// Where it listens, one for each target.
    pub fn entrances(&self) -> &[SocketAddr] {
        &self.entrances
    }

    /// CPU time of its processes since they started.
    pub fn cpu(&self) -> Duration {
        let master = self.process.pid();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap_or_default();
        let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([master]);
        pids.filter_map(|pid| Usage::of(pid).ok()).map(|usage| usage.cpu).sum()
    }
}

fn config(folder: &Path, own: &Path, set: &Certified, servers: &str) -> String {
    let (certificate, key) = (write(own, "cert.pem", &set.cert), write(own, "key.pem", &set.key));
    format!(
        "daemon off; worker_processes auto; pid {own}/pid;
         load_module {folder}/usr/lib/nginx/modules/ngx_stream_module.so;
         events {{ }}
         stream {{
             ssl_certificate {certificate};
             ssl_certificate_key {key};
             ssl_protocols TLSv1.2 TLSv1.3;
             {servers}
         }}\n",
        own = own.display(),
        folder = folder.display(),
        certificate = certificate.display(),
        key = key.display(),
    )
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).expect("a file in the lab's folder");
    path
}
