//! The agent under a service manager that wants to be told (`sd_notify(3)`): ready, alive, stopping; also through an
//! update, which to the service manager is nothing at all. And under systemd itself, as `hive-agent install` puts it there.

use hive_tests::{
    lab::Lab,
    node::{Node, Options},
    process::{self, PATIENCE},
    systemd::Machine,
    variants::{self, NEWER},
    wait::wait_until,
};
use std::{
    fs,
    os::unix::{fs::symlink, net::UnixDatagram},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

/// What is told to a service manager, which always listens.
struct Manager(mpsc::Receiver<String>);

impl Manager {
    fn at(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap();
        let (heard, hears) = mpsc::sync_channel(100_000);
        thread::spawn(move || {
            let mut buffer = [0; 256];
            // Until the test is over.
            while let Ok(len) = socket.recv(&mut buffer) {
                if heard.send(String::from_utf8_lossy(&buffer[..len]).into_owned()).is_err() {
                    return;
                }
            }
        });
        Manager(hears)
    }

    /// What comes next that is not a sign of life.
    fn hears(&self) -> String {
        loop {
            let heard = self.hears_anything();
            if heard != "WATCHDOG=1" {
                return heard;
            }
        }
    }

    fn hears_anything(&self) -> String {
        self.0.recv_timeout(PATIENCE).expect("the agent says something")
    }
}

#[test]
fn a_service_manager_hears_that_the_agent_is_ready_alive_and_stopping() {
    let lab = Lab::new();
    let host = lab.host("box");
    let programs = host.folder("programs");
    fs::copy(process::binary("hive-agent"), programs.join("hive-agent")).unwrap();
    symlink(process::binary("hivectl"), programs.join("hivectl")).unwrap();
    let path = host.folder("manager").join("notify");
    let manager = Manager::at(&path);
    // Far more often than a service manager would want it.
    let options = Options::default()
        .programs(&programs)
        .environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .environment("WATCHDOG_USEC", &Duration::from_millis(200).as_micros().to_string());
    let mut node = Node::start(&host, options);
    assert_eq!(manager.hears(), "READY=1");
    assert_eq!(manager.hears_anything(), "WATCHDOG=1");
    let binary = host.folder("binaries").join("hive-agent");
    fs::write(&binary, variants::version(NEWER)).unwrap();
    let pid = node.process().pid();
    node.ctl(&["update-node", "--binary", binary.to_str().unwrap()]).success();
    // Nothing of the trial, and never that it stops.
    assert_eq!(manager.hears(), "READY=1");
    wait_until("the new one lives", PATIENCE, || manager.hears_anything() == "WATCHDOG=1");
    assert_eq!((node.process().pid(), node.json(&["status"])["version"].as_str()), (pid, Some(NEWER)));
    node.stop();
    assert_eq!(manager.hears(), "STOPPING=1");
}

#[test]
fn a_service_manager_that_does_not_listen_holds_up_nothing() {
    let lab = Lab::new();
    let host = lab.host("box");
    let path = host.folder("manager").join("notify");
    let deaf = UnixDatagram::bind(&path).unwrap();
    let options = Options::default()
        .environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .environment("WATCHDOG_USEC", &Duration::from_millis(2).as_micros().to_string());
    let mut node = Node::start(&host, options);
    // The kernel holds ten datagrams or so; then a sender that waits would wait for ever.
    node.process().wait_for_line("does not hear WATCHDOG=1");
    node.json(&["status"]);
    node.stop();
    drop(deaf);
}

#[test]
fn systemd_installs_starts_and_revives_the_agent() {
    let test = "systemd_installs_starts_and_revives_the_agent";
    let Some(lab) = Lab::namespaces(test) else { return };
    let Some(machine) = Machine::boot(test, &lab.host("box")) else { return };
    let unit = "hive-agent.service";
    let given = ["--network", "home:correct horse", "--name", "box", "--admin", "root:staple", "install"];
    let said = machine.run(&[&["/opt/hive-agent"], &given[..]].concat()).success();
    assert!(said.contains("running systemctl restart hive-agent"), "{said}");
    let pid = || machine.property(unit, "MainPID");
    let status = || {
        let said = machine.run(&["/opt/hivectl", "--json", "status"]);
        serde_json::from_str::<serde_json::Value>(&said.stdout).ok()
    };
    // Type=notify: it was ready when the command ended.
    assert_eq!(machine.property(unit, "ActiveState"), "active");
    let (first, before) = (pid(), status().expect("the agent answers"));
    assert_eq!((&before["node_name"], machine.property(unit, "UnitFileState").as_str()), (&"box".into(), "enabled"));

    machine.run(&["/bin/kill", "-9", &first]).success();
    wait_until("systemd has started it again", PATIENCE, || {
        machine.property(unit, "NRestarts") == "1" && machine.property(unit, "ActiveState") == "active"
    });
    assert_ne!(pid(), first);
    assert_eq!(status().expect("the agent answers")["peer_id"], before["peer_id"], "its state is kept");

    machine.systemctl(&["stop", unit]).success();
    assert_eq!(machine.property(unit, "Result"), "success", "it stops when it is told to");
    machine.run(&["/opt/hive-agent", "uninstall", "--yes"]).success();
    assert_eq!(machine.property(unit, "LoadState"), "not-found");
    assert_eq!(machine.run(&["/usr/bin/test", "-e", "/var/lib/hive/data.mdb"]).status, Some(0), "the state stays");
}
