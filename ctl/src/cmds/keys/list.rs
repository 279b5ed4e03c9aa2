//! The table of `keys`.

use std::time::SystemTime;

use hive_protocol::{KeyInfo, KeyType, Timestamp};

use crate::{
    format::until,
    style::Style,
    table::{Cell, Table},
};

/// A certificate that ends within this time is shown as one to look after.
const SOON_MS: u64 = 14 * 24 * 3600 * 1000;

/// The wall clock.
pub fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// One row an entry, the trouble with its renewal below it.
pub fn table(keys: &[KeyInfo], now: Timestamp) -> Table {
    let mut table = Table::new(&["key_name", "type", "not_after", "renewal", "hostnames"]);
    for key in keys {
        let renewal = key.renews_at.map(|at| if at > now { until(at, now) } else { "due".to_owned() });
        table.row([
            key.key_name.to_string().into(),
            word(key.key_type).into(),
            expiry(key, now),
            renewal.unwrap_or_default().into(),
            key.hostnames.join(", ").into(),
        ]);
        if let Some(error) = &key.last_error {
            table.note(1, Cell::new(format!("error: {error}"), Style::Bad));
        }
    }
    table
}

/// The type as `--key-type` takes it.
pub fn word(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::Cert => "cert",
        KeyType::Key => "key",
        KeyType::Issuer => "issuer",
    }
}

fn expiry(key: &KeyInfo, now: Timestamp) -> Cell {
    let Some(end) = key.not_after else { return "".into() };
    let style = match end.0 {
        end if end <= now.0 => Style::Bad,
        end if end <= now.0 + SOON_MS => Style::Fair,
        _ => Style::Good,
    };
    Cell::new(until(end, now), style)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    fn key(name: &str, key_type: KeyType) -> KeyInfo {
        let key_name = name.parse().unwrap();
        KeyInfo { key_name, key_type, not_after: None, hostnames: Vec::new(), renews_at: None, last_error: None }
    }

    #[test]
    fn the_table_tells_expiry_renewal_and_trouble() {
        let now = Timestamp(100 * DAY);
        let cert = KeyInfo {
            not_after: Some(Timestamp(190 * DAY)),
            hostnames: vec!["shed.example".into(), "www.shed.example".into()],
            renews_at: Some(Timestamp(160 * DAY)),
            last_error: Some("the name did not resolve".into()),
            ..key("web_cert.pem", KeyType::Cert)
        };
        let expected = "\
key_name      type  not_after  renewal  hostnames
web_cert.pem  cert  in 90 d    in 60 d  shed.example, www.shed.example
              error: the name did not resolve
web_key.pem   key   -          -        -
";
        assert_eq!(table(&[cert, key("web_key.pem", KeyType::Key)], now).render(false), expected);
    }
}
