//! In the place of the SSH server, where this agent was built without it (cargo feature `ssh`).

use std::{net::TcpStream, sync::Arc};

use hive_protocol::{
    ProxySpec, SshHost, SshLogin,
    message::{Failure, FailureCode},
};
use hive_transport::source::Source;

use crate::{
    node::Handle,
    store::{Store, StoreError},
};

/// No server.
pub struct Server;

impl Server {
    /// Takes up nothing.
    #[expect(clippy::unnecessary_wraps, reason = "the server in whose place this is may fail")]
    pub fn load(_: &Arc<Store>) -> Result<Self, StoreError> {
        Ok(Self)
    }

    /// Refuses.
    #[expect(clippy::unused_async, reason = "the server in whose place this is waits")]
    pub async fn prepare(&self, _: &SshLogin) -> Result<(), Failure> {
        Err(Failure::new(FailureCode::Failed, "this agent was built without its SSH server"))
    }

    /// There is no key.
    pub fn host(&self) -> Option<SshHost> {
        None
    }

    /// Closes the connection.
    #[expect(clippy::unused_async, reason = "the server in whose place this is waits")]
    pub async fn serve(&self, _: &Handle, _: &ProxySpec, _: Source<TcpStream>) {}
}
