//! What the end-to-end tests, the demonstration and the benchmarks stand on: a network lab, real
//! processes in it, nodes of the hive, real servers and clients, and figures about all of them.
//!
//! A test reads like this:
//!
//! ```no_run
//! use hive_tests::{lab::Lab, node::{Node, Options}, services::Sse};
//!
//! let Some(lab) = Lab::namespaces("fetches_through_a_tunnel") else { return };
//! let (home, away) = (lab.host("home"), lab.host("away"));
//! let options = Options::member("garden:correct horse").admin("admin:battery staple");
//! let a = Node::start(&home, options.clone().name("a"));
//! let b = Node::start(&away, options.name("b"));
//! a.register(&b, "garden");
//! a.wait_until_sees(&[&b]);
//! let model = Sse::start(&away);
//! a.ctl(&["forward", "--from", "a:8000", "--to", &format!("b:{}", model.port())]).success();
//! ```
//!
//! Everything here is cleaned up when it is dropped, also by a panic; what a killed test left behind
//! is removed by the next one. A failure is a panic that says what was expected and shows the logs.
//! This crate never reaches into a node: it uses the command lines and sockets that a person has.

#![forbid(unsafe_code)]
pub mod acme;
pub mod board;
pub mod capture;
pub mod facts;
pub mod lab;
pub mod nobody;
pub mod node;
pub mod notice;
pub mod pair;
pub mod payload;
pub mod pebble;
pub mod pki;
pub mod process;
pub mod services;
pub mod static_build;
pub mod systemd;
pub mod tcp;
pub mod tls;
pub mod traffic;
pub mod usage;
pub mod variants;
pub mod view;
pub mod wait;
