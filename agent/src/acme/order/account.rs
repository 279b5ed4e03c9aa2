//! The account of this node at a CA: made once for each directory, kept, and bound to one made elsewhere where the CA wants
//! that (RFC 8555, section 7.3). One that the CA has forgotten is replaced.

use hive_protocol::keys::TlsRequest;
use instant_acme::{Account, AccountBuilder, AccountCredentials, Error, ExternalAccountKey, NewAccount};

use super::{Failed, Job, broken, patiently};
use crate::{
    acme::record::{account_key, contact_key},
    store::KeyChange,
};

impl Job<'_> {
    /// The account made before, else a new one, which is kept.
    pub(super) async fn account(&self, wish: &TlsRequest) -> Result<Account, Failed> {
        let stored = self.store.acme(&account_key(&wish.directory)).map_err(broken)?;
        match stored.filter(|bytes| credentials(bytes).is_ok()) {
            Some(stored) => self.known(wish, &stored).await,
            None => self.new_account(wish).await,
        }
    }

    /// Lets go of an account that the CA does not know any more.
    pub(super) async fn forget_account(&self, directory: &str) -> Result<(), Failed> {
        let gone = [account_key(directory), contact_key(directory)].map(|key| KeyChange::Acme(key, None));
        self.store.change_keys_aside(gone.into()).await.map_err(broken)
    }

    async fn known(&self, wish: &TlsRequest, stored: &[u8]) -> Result<Account, Failed> {
        let account = patiently!(self, self.restore(stored));
        (self.tell)(format!("using the account at {}", wish.directory));
        if let Some(email) = &wish.email {
            self.tell_contact(&account, &wish.directory, email).await?;
        }
        Ok(account)
    }

    async fn restore(&self, stored: &[u8]) -> Result<Account, Error> {
        self.builder().from_credentials(credentials(stored)?).await
    }

    /// Tells the CA of another e-mail address than the one it has.
    async fn tell_contact(&self, account: &Account, directory: &str, email: &str) -> Result<(), Failed> {
        let key = contact_key(directory);
        if self.store.acme(&key).map_err(broken)?.as_deref() == Some(email.as_bytes()) {
            return Ok(());
        }
        (self.tell)(format!("telling the CA to write to {email}"));
        patiently!(self, account.update_contacts(&[&mailto(email)]));
        let change = KeyChange::Acme(key, Some(email.as_bytes().to_vec()));
        self.store.change_keys_aside(vec![change]).await.map_err(broken)
    }

    async fn new_account(&self, wish: &TlsRequest) -> Result<Account, Failed> {
        (self.tell)(format!("making an account at {}", wish.directory));
        let external = wish.external.as_ref().map(|e| ExternalAccountKey::new(e.kid.clone(), &e.hmac_key));
        let contact = wish.email.as_deref().map(mailto);
        let contact: Vec<&str> = contact.as_deref().into_iter().collect();
        let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) =
            patiently!(self, self.builder().create(&new, wish.directory.clone(), external.as_ref()));
        let bytes = serde_json::to_vec(&credentials).map_err(broken)?;
        let contact = wish.email.as_ref().map(|email| email.as_bytes().to_vec());
        let changes = [(account_key(&wish.directory), Some(bytes)), (contact_key(&wish.directory), contact)];
        let changes = changes.map(|(key, value)| KeyChange::Acme(key, value));
        self.store.change_keys_aside(changes.into()).await.map_err(broken)?;
        Ok(account)
    }

    fn builder(&self) -> AccountBuilder {
        Account::builder_with_http(Box::new(self.http.clone()))
    }
}

/// What was stored; decoded for each attempt, which uses it up.
fn credentials(stored: &[u8]) -> Result<AccountCredentials, serde_json::Error> {
    serde_json::from_slice(stored)
}

fn mailto(email: &str) -> String {
    format!("mailto:{email}")
}
