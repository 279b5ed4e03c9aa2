//! Figures with their names: a table for people, a JSON document for programs.

use hive_tests::facts::{Table, median};
use serde_json::{Map, Value, json};
use std::{fmt, fs, io, path::PathBuf};

/// All figures of one run, in the order in which they were measured.
pub struct Report {
    name: &'static str,
    /// What hive is compared with.
    other: &'static str,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    unit: &'static str,
    raw: Option<f64>,
    tunnel: Option<f64>,
    /// A share of raw or a difference to it, as the text says.
    compared: Option<String>,
    spread: Option<f64>,
}

impl Report {
    /// An empty one, of comparisons with raw TCP; `name` is that of its file.
    pub fn new(name: &'static str) -> Report {
        Report::against(name, "raw")
    }

    /// An empty one, of comparisons with something else.
    pub fn against(name: &'static str, other: &'static str) -> Report {
        Report { name, other, rows: Vec::new() }
    }

    /// A figure on its own.
    pub fn figure(&mut self, name: &str, unit: &'static str, value: Option<f64>) {
        self.add(Row { name: name.to_owned(), unit, raw: None, tunnel: value, compared: None, spread: None });
    }

    /// Turns of the other and of hive, compared turn by turn: the median of the shares.
    pub fn pair(&mut self, name: &str, unit: &'static str, raw: &[f64], tunnelled: &[f64]) {
        let shares: Vec<f64> = tunnelled.iter().zip(raw).map(|(tunnelled, raw)| tunnelled / raw).collect();
        let compared = median(&shares).map(|share| format!("{share:.2} of {}", self.other));
        let spread = shares.iter().copied().reduce(f64::max).zip(shares.iter().copied().reduce(f64::min));
        let spread = spread.map(|(most, least)| most - least);
        let (raw, tunnel) = (median(raw), median(tunnelled));
        self.add(Row { name: name.to_owned(), unit, raw, tunnel, compared, spread });
    }

    /// What the tunnel adds.
    pub fn added(&mut self, name: &str, unit: &'static str, raw: f64, tunnel: f64) {
        let compared = Some(format!("+{:.0} {unit}", tunnel - raw));
        self.add(Row { name: name.to_owned(), unit, raw: Some(raw), tunnel: Some(tunnel), compared, spread: None });
    }

    /// Writes the JSON document beside the executable's profile, as in `target/bench/tunnel.json`, and says where.
    pub fn save(&self) -> io::Result<PathBuf> {
        let path = folder()?.join(format!("{}.json", self.name));
        fs::write(&path, format!("{:#}\n", self.json()))?;
        Ok(path)
    }

    fn add(&mut self, row: Row) {
        eprintln!("{}: {} {}", row.name, number(row.tunnel), row.unit);
        self.rows.push(row);
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let value =
                json!({ "unit": row.unit, self.other: row.raw, "value": row.tunnel, "spread_of_share": row.spread });
            (row.name.clone(), value)
        });
        Value::Object(rows.collect::<Map<_, _>>())
    }
}

/// `target/bench`, made if it is not there.
pub fn folder() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).ok_or_else(|| io::Error::other("no folder for the report"))?;
    let folder = target.join("bench");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&[self.name, self.other, "hive", "unit", "compared"]);
        for row in &self.rows {
            let compared = row.compared.clone().unwrap_or_default();
            table.row(&[row.name.clone(), number(row.raw), number(row.tunnel), row.unit.to_owned(), compared]);
        }
        write!(out, "\n{table}")
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(
        || "-".to_owned(),
        |value| if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") },
    )
}
