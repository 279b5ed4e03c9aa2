//! What an agent is started with, brought into the core: the admin account and the networks.

use hive_core::{Admin, Core};
use hive_protocol::{
    NetworkName,
    password::{PasswordHashed, Secret, network_secret},
};

use crate::{
    agent::{Error, salt},
    node::now,
    options::{AdminPassword, Settings},
    random,
};

/// The admin account that is made where none was given.
pub const DEFAULT_ADMIN: &str = "admin";

/// Characters below which a password is soon guessed.
const WEAK: usize = 8;

/// Applies what was given; returns what was made instead, in sentences to be shown once it is stored.
pub fn apply(core: &mut Core, settings: &Settings) -> Result<Vec<String>, Error> {
    let mut made = Vec::new();
    apply_admin(core, settings, &mut made)?;
    apply_networks(core, settings, &mut made)?;
    Ok(made)
}

/// Takes the admin account given, or makes one when there is none: nothing configured never means open.
fn apply_admin(core: &mut Core, settings: &Settings, made: &mut Vec<String>) -> Result<(), Error> {
    let before = core.admin().cloned();
    let admin = match (&settings.admin, before) {
        (Some((user, AdminPassword::Hashed(password))), _) => Admin { user: user.clone(), password: password.clone() },
        (Some((user, AdminPassword::Plain(password))), before) => match before {
            // Hashing again would make another salt, and end all sessions at every start.
            Some(same) if same.user == *user && same.password.matches(password) => return Ok(()),
            _ => Admin { user: user.clone(), password: PasswordHashed::new(password, salt())? },
        },
        (None, Some(_)) => return Ok(()),
        (None, None) => generated_admin(made)?,
    };
    core.set_admin(admin);
    Ok(())
}

fn generated_admin(made: &mut Vec<String>) -> Result<Admin, Error> {
    let password = generated_password();
    made.push(format!("admin account: user {DEFAULT_ADMIN}, password {password} (shown once, stored only as a hash)"));
    Ok(Admin { user: DEFAULT_ADMIN.to_owned(), password: PasswordHashed::new(&password, salt())? })
}

fn apply_networks(core: &mut Core, settings: &Settings, made: &mut Vec<String>) -> Result<(), Error> {
    for (name, password) in &settings.networks {
        match password {
            Some(password) if !is_member(core, name) => {
                warn_if_weak(name, password);
                join(core, name, network_secret(name, password)?)?;
            }
            Some(password) => join(core, name, network_secret(name, password)?)?,
            None if is_member(core, name) => {}
            None => create(core, name, made)?,
        }
    }
    Ok(())
}

fn is_member(core: &Core, name: &NetworkName) -> bool {
    core.networks(now()).iter().any(|known| known.name == *name)
}

/// A password is tried online only, and slowly, but one of a few letters is found even so.
fn warn_if_weak(name: &NetworkName, password: &str) {
    if password.chars().count() < WEAK {
        log::warn!("network {name}: a password of fewer than {WEAK} characters is soon guessed");
    }
}

/// Joins a network. Another password than the stored one is not taken: it may be from before a rotation, and whoever was
/// shut out by that would be let in again.
fn join(core: &mut Core, name: &NetworkName, secret: Secret) -> Result<(), Error> {
    let stored = core.join_secrets(name, &core.id(), now()).into_iter().next();
    match stored {
        Some(before) if before == secret => {}
        Some(_) => log::warn!(
            "network {name}: the password given is not the one in use and is passed over; change it with `hivectl networks \
             rotate`, or take it out of what this agent is started with"
        ),
        None => core.join_network(name, secret, now()).map_err(Error::Refused)?,
    }
    Ok(())
}

fn create(core: &mut Core, name: &NetworkName, made: &mut Vec<String>) -> Result<(), Error> {
    let password = generated_password();
    join(core, name, network_secret(name, &password)?)?;
    let how = format!("start other nodes with --network {name}:{password}");
    made.push(format!("network {name}: password {password} (shown once; {how})"));
    Ok(())
}

/// 128 random bits, in letters and digits that survive being read aloud.
pub fn generated_password() -> String {
    data_encoding::BASE32_NOPAD.encode(&random::bytes::<16>()).to_lowercase()
}
