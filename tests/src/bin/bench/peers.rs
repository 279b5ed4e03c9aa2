//! hive beside the programs that people use for the same, in one run and taking turns: every turn of a case has all of
//! them, so what the machine does meanwhile meets them all.

use crate::{
    Bench,
    bulk::{self, Direction},
    connections,
    contender::{self, Contender},
    latency, plot,
};
use argh::FromArgs;
use hive_tests::{
    facts::{Table, median, percentile},
    lab::Lab,
    notice,
};
use serde_json::{Map, Value, json};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Compares tunnels with ssh, stunnel, shadowsocks-rust, rathole and dumbpipe, and with another build of hive.
#[derive(FromArgs)]
#[argh(subcommand, name = "peers")]
pub struct Peers {
    /// the folder of another build of hive-agent and hivectl, as one more that takes its turns
    #[argh(option)]
    other: Option<PathBuf>,
    /// only those of tests/peers.d whose names contain one of these, separated by commas (`none` for none)
    #[argh(option)]
    with: Option<String>,
    /// only the cases whose names contain one of these, separated by commas
    #[argh(option)]
    only: Option<String>,
}

/// The scripts, in the repository's root, from where `tests/bench` starts this.
const SCRIPTS: &str = "tests/peers.d";
const GIB: f64 = (1 << 30) as f64;
const COUNTS: [usize; 3] = [1, 8, 64];

/// What is done in one turn.
#[derive(Clone, Copy)]
enum Load {
    Bulk(Direction, usize),
    /// Clients, and bulk copies beside them.
    Trips(usize, usize),
    Connections(usize),
}

/// How the figures of all are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// More is better: a share of plain TCP's.
    Share,
    /// Less is better.
    Cost,
    /// Less is better: what is added to plain TCP's.
    Added,
}

/// What was measured, turn by turn.
pub struct Figure {
    /// For people.
    pub name: String,
    unit: &'static str,
    measure: Measure,
    /// By contender; those that failed have none.
    turns: Vec<Vec<f64>>,
}

impl Peers {
    /// Runs all cases and writes the table, `target/bench/peers.json` and `target/bench/peers.svg`.
    pub fn measure(&self, lab: &Lab, rounds: usize, bytes: u64) -> io::Result<()> {
        let wanted = |name: &str, some: &Option<String>| {
            some.as_ref().is_none_or(|some| some.split(',').any(|part| name.contains(part)))
        };
        let mut peers = contender::peers(Path::new(SCRIPTS))?;
        peers.retain(|peer| wanted(&peer.to_string_lossy(), &self.with));
        let contenders = Contender::all(lab, Bench::start(lab), self.other.as_deref(), &peers);
        let mut figures = Vec::new();
        for (name, load) in cases().into_iter().filter(|(name, _)| wanted(name, &self.only)) {
            figures.extend(run(&name, load, &contenders, rounds, bytes));
        }
        let names: Vec<&str> = contenders.iter().map(|contender| contender.name.as_str()).collect();
        print!("{}", table(&names, &figures));
        save(&names, &figures)
    }
}

fn cases() -> Vec<(String, Load)> {
    let mut cases = Vec::new();
    for count in COUNTS {
        for (direction, name) in [(Direction::Up, "up"), (Direction::Down, "down")] {
            cases.push((format!("bulk, {count} {name}"), Load::Bulk(direction, count)));
        }
    }
    for count in COUNTS {
        cases.push((format!("round trip, {count} at once"), Load::Trips(count, 0)));
    }
    for copies in [1, 8] {
        cases.push((format!("round trip beside {copies} bulk"), Load::Trips(1, copies)));
    }
    cases.push(("new connections, one by one".to_owned(), Load::Connections(1)));
    cases.push(("new connections, 64 at once".to_owned(), Load::Connections(64)));
    cases
}

/// The turns of one case, of all contenders.
fn run(case: &str, load: Load, contenders: &[Contender], rounds: usize, bytes: u64) -> Vec<Figure> {
    eprintln!("{case}");
    let figure = |(part, unit, measure): (&str, _, _)| {
        let turns = vec![Vec::new(); contenders.len()];
        Figure { name: format!("{case}{part}"), unit, measure, turns }
    };
    let mut figures: Vec<Figure> = match load {
        Load::Bulk(..) => vec![("", "MiB/s", Measure::Share), (": CPU", "s/GiB", Measure::Cost)],
        Load::Trips(..) => vec![(", p50", "µs", Measure::Added), (", p99", "µs", Measure::Added)],
        Load::Connections(_) => vec![("", "/s", Measure::Share)],
    }
    .into_iter()
    .map(figure)
    .collect();
    for _ in 0..rounds {
        for (at, contender) in contenders.iter().enumerate() {
            match turn(load, contender, bytes) {
                Ok(values) => figures.iter_mut().zip(values).for_each(|(figure, value)| figure.turns[at].push(value)),
                Err(error) => notice::say(&format!("{case}: {} failed: {error}", contender.name)),
            }
        }
    }
    figures
}

fn turn(load: Load, contender: &Contender, bytes: u64) -> io::Result<Vec<f64>> {
    match load {
        Load::Bulk(direction, count) => {
            let before = contender.cpu();
            let speed = bulk::speed(contender.way, direction, count as u64, bytes)?;
            Ok(vec![speed, (contender.cpu() - before).as_secs_f64() * GIB / bytes as f64])
        }
        Load::Trips(clients, copies) => {
            let taken = latency::crowd(contender.way, clients, copies)?;
            Ok([50.0, 99.0].iter().filter_map(|percent| percentile(&taken, *percent)).collect())
        }
        Load::Connections(at_once) => Ok(vec![connections::rate(contender.way, at_once)?]),
    }
}

impl Figure {
    /// The middle turn of a contender.
    pub fn median(&self, of: usize) -> Option<f64> {
        median(&self.turns[of])
    }

    /// A contender's figure for people: plain TCP's is first.
    fn cell(&self, of: usize) -> String {
        let compared = match (self.measure, of) {
            (Measure::Cost, 0) => None,
            (_, 0) | (Measure::Cost, _) => return self.median(of).map_or_else(|| "-".to_owned(), number),
            (Measure::Share, _) => self.against(of, 0).map(|(share, _)| format!("{share:.2}")),
            (Measure::Added, _) => self.median(of).zip(self.median(0)).map(|(this, raw)| format!("+{:.0}", this - raw)),
        };
        compared.unwrap_or_else(|| "-".to_owned())
    }

    /// The best of the peers, and hive as a multiple of it: the middle of the turns and their spread.
    fn best(&self, names: &[&str]) -> Option<(usize, (f64, f64))> {
        let peers = (2..names.len()).filter(|at| names[*at] != "other hive");
        let rated = peers.filter_map(|at| Some((at, self.median(at)?)));
        let better = |a: &(usize, f64), b: &(usize, f64)| match self.measure {
            Measure::Share => b.1.total_cmp(&a.1),
            Measure::Cost | Measure::Added => a.1.total_cmp(&b.1),
        };
        let best = rated.min_by(better)?.0;
        Some((best, self.against(1, best)?))
    }

    /// One as a multiple of another, turn by turn: the median, and the distance of the extremes.
    fn against(&self, of: usize, other: usize) -> Option<(f64, f64)> {
        let shares: Vec<f64> =
            self.turns[of].iter().zip(&self.turns[other]).map(|(this, other)| this / other).collect();
        let extremes = shares.iter().copied().reduce(f64::max).zip(shares.iter().copied().reduce(f64::min));
        median(&shares).zip(extremes.map(|(most, least)| most - least))
    }
}

fn table(names: &[&str], figures: &[Figure]) -> Table {
    let head: Vec<&str> = ["peers", "unit"].into_iter().chain(names.iter().copied()).chain(["hive : best"]).collect();
    let mut table = Table::new(&head);
    for figure in figures {
        let unit = match figure.measure {
            Measure::Share => format!("{}, share", figure.unit),
            Measure::Cost | Measure::Added => figure.unit.to_owned(),
        };
        let best = figure
            .best(names)
            .map(|(best, (ratio, spread))| format!("{ratio:.2} ±{:.2} {}", spread / 2.0, names[best]));
        let cells = (0..names.len()).map(|of| figure.cell(of));
        let row = [figure.name.clone(), unit].into_iter().chain(cells).chain([best.unwrap_or_default()]);
        table.row(&row.collect::<Vec<_>>());
    }
    table
}

fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

fn save(names: &[&str], figures: &[Figure]) -> io::Result<()> {
    let folder = crate::report::folder()?;
    let rows = figures.iter().map(|figure| {
        let medians = names.iter().enumerate().map(|(of, name)| ((*name).to_owned(), json!(figure.median(of))));
        let best = figure.best(names).map(
            |(best, (ratio, spread))| json!({ "name": names[best], "hive_as_a_multiple": ratio, "spread": spread }),
        );
        let turns = names.iter().zip(&figure.turns).map(|(name, turns)| ((*name).to_owned(), json!(turns)));
        let value = json!({
            "unit": figure.unit,
            "medians": medians.collect::<Map<_, _>>(),
            "best_peer": best,
            "turns": turns.collect::<Map<_, _>>(),
        });
        (figure.name.clone(), value)
    });
    let (data, image) = (folder.join("peers.json"), folder.join("peers.svg"));
    fs::write(&data, format!("{:#}\n", Value::Object(rows.collect::<Map<_, _>>())))?;
    fs::write(&image, plot::draw(names, &panels(figures)))?;
    println!("\nAlso in {} and {}", data.display(), image.display());
    Ok(())
}

/// Throughput and latency against connections.
fn panels(figures: &[Figure]) -> Vec<plot::Panel> {
    let titles = [
        ("Bulk, up", "MiB/s", "bulk, N up"),
        ("Bulk, down", "MiB/s", "bulk, N down"),
        ("Round trip, median", "µs", "round trip, N at once, p50"),
        ("Round trip, 99th percentile", "µs", "round trip, N at once, p99"),
    ];
    titles
        .map(|(title, unit, name)| {
            plot::Panel::new(title, unit, &COUNTS, |count| {
                let name = name.replace('N', &count.to_string());
                let figure = figures.iter().find(|figure| figure.name == name)?;
                Some((0..figure.turns.len()).map(|of| figure.median(of)).collect())
            })
        })
        .into()
}
