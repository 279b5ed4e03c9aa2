//! One order from beginning to end, or from where it was left off (RFC 8555, section 7.4).
//!
//! Every step is told before it is taken. An order and its private key are stored before anything is asked of the CA for
//! it, so it is taken up again after a restart; what is stored is removed by whoever stores the certificate.

mod account;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_io::Timer;
use hive_protocol::{
    Timestamp,
    keys::{Challenge, TlsRequest},
};
use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::CertificateDer;

use super::{
    answers::{Answer, Answers},
    client::Http,
    record::{Pending, Record, Trouble},
    words,
};
use crate::{
    keys::{Keys, Seen},
    store::Store,
};

/// The longest that is waited for the CA's patience while somebody waits for us.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Between looks at an order: the first pause, and the longest.
const LOOK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// For a CA to check what it was told is ready, or to issue.
const CHECKING: Duration = Duration::from_secs(300);

/// What to do where that was not enough. A renewal goes on with its order; what a command began ends with the command.
const LATE: &str = "the CA takes long: a renewal is tried again by itself, a command has to be given again";

/// Tells a step.
pub type Tell<'a> = &'a (dyn Fn(String) + Send + Sync);

/// A certificate and its key.
pub struct Issued {
    /// The chain, PEM.
    pub chain: String,
    /// The private key, PEM.
    pub key: String,
}

/// Why there is none.
#[derive(Debug)]
pub struct Failed {
    /// In words.
    pub trouble: Trouble,
    /// Before when the CA wants no other attempt.
    pub not_before: Timestamp,
    /// Because the CA does not know the account.
    account_gone: bool,
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        Self { trouble, not_before: Timestamp(0), account_gone: false }
    }
}

/// What an order works with.
pub struct Job<'a> {
    /// Accounts are kept here.
    pub store: &'a Arc<Store>,
    /// Orders are kept here, for as long as nobody changed by hand what was seen.
    pub keys: &'a Arc<Keys>,
    /// The certificate and its key when it began.
    pub seen: &'a Seen,
    /// Answers to challenges.
    pub answers: &'a Arc<Answers>,
    /// Tells each step.
    pub tell: Tell<'a>,
    /// Talks to the CA.
    pub http: Http,
    /// Attempts of one request, the first included.
    pub attempts: u32,
}

/// Repeats a request to the CA while its failure may pass.
macro_rules! patiently {
    ($job:expr, $request:expr) => {{
        let mut attempts = 0;
        loop {
            match $request.await {
                Ok(done) => break done,
                Err(error) => $job.after(&error, &mut attempts).await?,
            }
        }
    }};
}

pub(crate) use patiently;

impl Job<'_> {
    /// Orders, or goes on with the order in `record`, which is stored anew when there is another.
    pub async fn run(&self, record: &mut Record, replaces: Option<CertificateDer<'static>>) -> Result<Issued, Failed> {
        match self.order(record, replaces.clone()).await {
            Err(failed) if failed.account_gone => {
                (self.tell)("the CA does not know this node's account any more".into());
                self.forget_account(&record.wish.directory).await?;
                self.order(record, replaces).await
            }
            done => done,
        }
    }

    async fn order(&self, record: &mut Record, replaces: Option<CertificateDer<'static>>) -> Result<Issued, Failed> {
        let account = self.account(&record.wish).await?;
        let (mut order, pending) = match self.unfinished(&account, record).await? {
            Some(found) => found,
            None => self.begin(&account, record, replaces).await?,
        };
        let answers = self.answer_challenges(&mut order, &record.wish).await?;
        if order.state().status == OrderStatus::Pending {
            self.until_checked(&mut order).await?;
        }
        drop(answers);
        if order.state().status == OrderStatus::Ready {
            (self.tell)("all names are proven, asking for the certificate".into());
            let request = signing_request(&record.wish, &pending.key).map_err(broken)?;
            patiently!(self, order.finalize_csr(&request));
        }
        let chain = self.until_issued(&mut order).await?;
        Ok(Issued { chain, key: pending.key })
    }

    /// When the CA suggests that a certificate be renewed, and when to ask again; none where it does not say.
    pub async fn window(
        &self,
        wish: &TlsRequest,
        certificate: &CertificateDer<'_>,
    ) -> Result<Option<((Timestamp, Timestamp), Duration)>, Failed> {
        let Ok(id) = CertificateIdentifier::try_from(certificate) else { return Ok(None) };
        let account = self.account(wish).await?;
        match account.renewal_info(&id).await {
            Ok((info, again)) => {
                let moment = |at| Timestamp::from(SystemTime::from(at));
                Ok(Some(((moment(info.suggested_window.start), moment(info.suggested_window.end)), again)))
            }
            Err(Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// The order that was left off, if the CA still knows it and it can still be finished.
    async fn unfinished(&self, account: &Account, record: &Record) -> Result<Option<(Order, Pending)>, Failed> {
        let Some(pending) = record.order.clone() else { return Ok(None) };
        let mut attempts = 0;
        let mut order = loop {
            match account.order(pending.url.clone()).await {
                Ok(order) => break order,
                Err(error) if words::is_passing(&error) => self.after(&error, &mut attempts).await?,
                Err(_) => return Ok(None),
            }
        };
        if order.state().status == OrderStatus::Invalid {
            return Ok(None);
        }
        (self.tell)("going on with the order that was begun before".into());
        Ok(Some((order, pending)))
    }

    async fn begin(
        &self,
        account: &Account,
        record: &mut Record,
        replaces: Option<CertificateDer<'static>>,
    ) -> Result<(Order, Pending), Failed> {
        let names: Vec<_> = record.wish.hostnames.iter().map(|host| Identifier::Dns(host.to_string())).collect();
        let key = KeyPair::generate().map_err(broken)?.serialize_pem();
        (self.tell)(format!("ordering a certificate for {}", super::listed(&record.wish.hostnames)));
        let replaced = replaces.as_ref().and_then(|old| CertificateIdentifier::try_from(old).ok());
        let first = match replaced {
            // A CA that has renewed it already, or does not know it, wants the order without.
            Some(old) => account.new_order(&NewOrder::new(&names).replaces(old)).await.ok(),
            None => None,
        };
        let order = match first {
            Some(order) => order,
            None => patiently!(self, account.new_order(&NewOrder::new(&names))),
        };
        let pending = Pending { url: order.url().to_owned(), key };
        record.order = Some(pending.clone());
        record.keep(self.keys, self.seen).await.map_err(|e| Trouble::of(&e))?;
        Ok((order, pending))
    }

    /// Puts up an answer for each name that is not proven yet, and tells the CA to look.
    async fn answer_challenges(
        &self,
        order: &mut Order,
        wish: &TlsRequest,
    ) -> Result<BTreeMap<String, Answer>, Failed> {
        let mut answers = BTreeMap::new();
        let mut attempts = 0;
        loop {
            match self.put_up(order, wish, &mut answers).await? {
                None => return Ok(answers),
                // Names that were fetched and answered are not asked for again.
                Some(error) => self.after(&error, &mut attempts).await?,
            }
        }
    }

    /// Returns the error of a request that may be repeated.
    async fn put_up(
        &self,
        order: &mut Order,
        wish: &TlsRequest,
        answers: &mut BTreeMap<String, Answer>,
    ) -> Result<Option<Error>, Failed> {
        let mut authorizations = order.authorizations();
        while let Some(fetched) = authorizations.next().await {
            let mut authorization = match fetched {
                Ok(authorization) => authorization,
                Err(error) => return Ok(Some(error)),
            };
            let name = authorization.identifier().to_string();
            if answers.contains_key(&name) {
                continue;
            }
            if authorization.status != AuthorizationStatus::Pending {
                (self.tell)(format!("{name}: proven before"));
                continue;
            }
            let kind = kind(wish.challenge);
            let token = authorization.challenges.iter().find(|c| c.r#type == kind).map(|c| c.token.clone());
            let offered: Vec<String> = authorization.challenges.iter().map(|c| format!("{:?}", c.r#type)).collect();
            let (Some(token), Some(mut challenge)) = (token, authorization.challenge(kind)) else {
                let offered = offered.join(", ");
                let what = format!("the CA does not offer {} for {name}, but {offered}", word(wish.challenge));
                return Err(told(what, "choose another --challenge"));
            };
            let proof = challenge.key_authorization();
            let answer = match wish.challenge {
                Challenge::Http01 => self.answers.http(&token, &proof),
                Challenge::TlsAlpn01 => self.answers.tls(&name, &proof).map_err(broken)?,
            };
            answers.insert(name.clone(), answer);
            (self.tell)(format!("{name}: the CA may ask by {} now", word(wish.challenge)));
            patiently!(self, challenge.set_ready());
        }
        Ok(None)
    }

    /// Waits until the CA has checked all names.
    async fn until_checked(&self, order: &mut Order) -> Result<(), Failed> {
        let mut deadline = Deadline::start();
        loop {
            deadline.pause(self, "check the names").await?;
            let status = patiently!(self, order.refresh()).status;
            match status {
                OrderStatus::Pending => {}
                OrderStatus::Invalid => return Err(self.refusal(order).await),
                _ => return Ok(()),
            }
        }
    }

    async fn until_issued(&self, order: &mut Order) -> Result<String, Failed> {
        let mut deadline = Deadline::start();
        loop {
            // Also before the first look: pebble of 2024 hangs when it is asked at once.
            deadline.pause(self, "issue the certificate").await?;
            let status = patiently!(self, order.refresh()).status;
            match status {
                OrderStatus::Valid => break,
                OrderStatus::Invalid => return Err(self.refusal(order).await),
                _ => {}
            }
        }
        let chain = patiently!(self, order.certificate());
        chain.ok_or_else(|| told("the CA has issued a certificate but does not hand it out".into(), "try again"))
    }

    /// Why the CA refused: what it says of the names, else of the order.
    async fn refusal(&self, order: &mut Order) -> Failed {
        let whole = order.state().error.as_ref().map(words::of_problem);
        let mut authorizations = order.authorizations();
        let mut found = None;
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let name = authorization.identifier().to_string();
            let Ok(state) = authorization.refresh().await else { continue };
            let Some(error) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) else { continue };
            let trouble = words::of_problem(error);
            found.get_or_insert(Trouble { what: format!("{name}: {}", trouble.what), hint: trouble.hint });
        }
        let unknown = || Trouble { what: "the CA refused the order".into(), hint: "see the log".into() };
        found.or(whole).unwrap_or_else(unknown).into()
    }

    /// Waits before another attempt, or says that there is no use in one.
    async fn after(&self, error: &Error, attempts: &mut u32) -> Result<(), Failed> {
        *attempts += 1;
        let wish = self.http.wait_until().and_then(|until| until.duration_since(SystemTime::now()).ok());
        let pause = match error {
            Error::Api(problem) if words::kind(problem) == "badNonce" => Duration::ZERO,
            _ => wish.unwrap_or_else(|| Duration::from_secs(1 << (*attempts - 1).min(5))),
        };
        if !words::is_passing(error) || *attempts >= self.attempts || pause > LONGEST_WAIT {
            let not_before = Timestamp::from(SystemTime::now() + wish.unwrap_or_default());
            return Err(Failed { not_before, ..self.failed(error) });
        }
        if !pause.is_zero() {
            let why = words::trouble(error).what;
            (self.tell)(format!("{why}; trying again in {} s", pause.as_secs().max(1)));
            Timer::after(pause).await;
        }
        Ok(())
    }

    fn failed(&self, error: &Error) -> Failed {
        let account_gone = matches!(error, Error::Api(problem) if words::kind(problem) == "accountDoesNotExist");
        Failed { account_gone, ..words::trouble(error).into() }
    }
}

/// How long something has been waited for.
struct Deadline {
    next: Duration,
    waited: Duration,
}

impl Deadline {
    fn start() -> Self {
        Self { next: LOOK.0, waited: Duration::ZERO }
    }

    /// Waits before another look: as long as the CA wishes, else a little longer each time.
    async fn pause(&mut self, job: &Job<'_>, what: &str) -> Result<(), Failed> {
        let wish = job.http.wait_until().and_then(|until| until.duration_since(SystemTime::now()).ok());
        let pause = wish.map_or(self.next, |wish| wish.clamp(LOOK.0, LOOK.1 * 6));
        if self.waited + pause > CHECKING {
            let what = format!("the CA did not {what} within {} min", CHECKING.as_secs() / 60);
            return Err(told(what, LATE));
        }
        self.next = (pause * 3 / 2).min(LOOK.1);
        self.waited += pause;
        Timer::after(pause).await;
        Ok(())
    }
}

fn kind(challenge: Challenge) -> ChallengeType {
    match challenge {
        Challenge::Http01 => ChallengeType::Http01,
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

fn word(challenge: Challenge) -> &'static str {
    match challenge {
        Challenge::Http01 => "http-01",
        Challenge::TlsAlpn01 => "tls-alpn-01",
    }
}

/// The request for a certificate: the names and the key, and no subject.
fn signing_request(wish: &TlsRequest, key: &str) -> Result<Vec<u8>, rcgen::Error> {
    let names: Vec<String> = wish.hostnames.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&KeyPair::from_pem(key)?)?.der().to_vec())
}

fn told(what: String, hint: &str) -> Failed {
    Trouble { what, hint: hint.into() }.into()
}

fn broken(error: impl ToString) -> Failed {
    told(error.to_string(), "see the agent's log")
}
