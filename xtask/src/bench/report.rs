//! What came out: a table to read and JSON to compare.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::numbers::{Latencies, median};
use super::process::Memory;
use super::startup::Startup;
use super::{BenchArgs, Load};

/// One thing to measure.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) body: String,
    pub(crate) expect: u16,
    /// The processes whose cost it is.
    pub(crate) servers: Vec<&'static str>,
    /// Whether each request comes out as an event at the app.
    pub(crate) delivers: bool,
}

/// One load on one case in one round.
#[derive(Serialize, Debug, Clone)]
pub(crate) struct Measure {
    pub(crate) requests_per_second: f64,
    pub(crate) latency: Latencies,
    pub(crate) lag: Latencies,
    /// Of all the case's servers together; `None` if there is no server between client and app.
    pub(crate) cpu_us_per_request: Option<f64>,
    /// From when the publish request was due to the event's arrival at the app.
    pub(crate) delivery: Option<Latencies>,
    /// The largest of the case's servers, right after the load.
    pub(crate) memory: Option<Memory>,
}

impl Measure {
    /// For the eye, while it runs.
    pub(crate) fn line(&self, load: Load) -> String {
        format!(
            "{:<5} {:>8.0}/s  p50 {:>7.3} ms  p99 {:>8.3} ms  cpu {:>7.1} us",
            load.name(),
            self.requests_per_second,
            self.latency.p50_ms,
            self.latency.p99_ms,
            self.cpu_us_per_request.unwrap_or(0.0)
        )
    }
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Full => "full",
        }
    }
}

/// A case under a load, over all rounds.
struct Row {
    case: &'static str,
    load: Load,
    rounds: Vec<Measure>,
}

impl Row {
    fn median(&self, of: impl Fn(&Measure) -> Option<f64>) -> Option<f64> {
        median(self.rounds.iter().filter_map(of))
    }

    /// The median over the rounds of this row's value by the other's in the same round.
    fn ratio(&self, other: &Self, of: impl Fn(&Measure) -> Option<f64>) -> Option<f64> {
        let pairs = self.rounds.iter().zip(&other.rounds);
        median(pairs.filter_map(|(mine, theirs)| Some(of(mine)? / of(theirs)?)))
    }
}

/// Everything a run found.
pub(crate) struct Report {
    command: String,
    machine: Value,
    binaries: Vec<(String, u64)>,
    args: BenchArgs,
    rows: Vec<Row>,
    pub(crate) idle: Vec<(String, Memory)>,
    pub(crate) loaded: Vec<(String, Memory)>,
    pub(crate) startup: Option<Startup>,
}

impl Report {
    pub(crate) fn new(args: &BenchArgs, bins: &Path) -> Result<Self> {
        Ok(Self {
            command: std::env::args()
                .skip(1)
                .fold(String::from("cargo xtask"), |line, word| line + " " + &word),
            machine: machine(),
            binaries: binaries(bins)?,
            args: args.clone(),
            rows: Vec::new(),
            idle: Vec::new(),
            loaded: Vec::new(),
            startup: None,
        })
    }

    pub(crate) fn add(&mut self, case: &Case, load: Load, measure: Measure) {
        match self
            .rows
            .iter_mut()
            .find(|row| row.case == case.name && row.load == load)
        {
            Some(row) => row.rounds.push(measure),
            None => self.rows.push(Row {
                case: case.name,
                load,
                rounds: vec![measure],
            }),
        }
    }

    fn floor(&self, load: Load) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.case == "floor" && row.load == load)
    }

    /// Writes the JSON and says where.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let rows: Vec<_> = self.rows.iter().map(|row| self.row_json(row)).collect();
        let memory = |list: &[(String, Memory)]| {
            list.iter()
                .map(|(name, memory)| (name.clone(), json!(memory)))
                .collect::<serde_json::Map<_, _>>()
        };
        let text = serde_json::to_string_pretty(&json!({
            "command": self.command,
            "machine": self.machine,
            "connections": self.args.connections,
            "rate": self.args.rate,
            "size": self.args.size,
            "cases": rows,
            "idle": memory(&self.idle),
            "after_load": memory(&self.loaded),
            "startup": self.startup,
            "binaries": self.binaries.iter().map(|(name, size)| (name.clone(), json!(size))).collect::<serde_json::Map<_, _>>(),
        }))?;
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("JSON: {}", path.display());
        Ok(())
    }

    fn row_json(&self, row: &Row) -> Value {
        let columns: Vec<(&str, Column)> = COLUMNS.to_vec();
        let medians: serde_json::Map<_, _> = columns
            .iter()
            .map(|(name, of)| ((*name).to_owned(), json!(row.median(of))))
            .collect();
        let ratios: serde_json::Map<_, _> = self.floor(row.load).map_or_else(Default::default, |floor| {
            columns
                .iter()
                .map(|(name, of)| ((*name).to_owned(), json!(row.ratio(floor, of))))
                .collect()
        });
        json!({
            "case": row.case,
            "load": row.load.name(),
            "median": medians,
            "ratio_to_floor": ratios,
            "rounds": row.rounds,
        })
    }
}

type Column = fn(&Measure) -> Option<f64>;

/// What is compared.
const COLUMNS: &[(&str, Column)] = &[
    ("requests_per_second", |measure| Some(measure.requests_per_second)),
    ("p50_ms", |measure| Some(measure.latency.p50_ms)),
    ("p99_ms", |measure| Some(measure.latency.p99_ms)),
    ("cpu_us_per_request", |measure| measure.cpu_us_per_request),
    ("delivery_p50_ms", |measure| {
        measure.delivery.map(|delay| delay.p50_ms)
    }),
    ("delivery_p99_ms", |measure| {
        measure.delivery.map(|delay| delay.p99_ms)
    }),
];

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "\n`{}`", self.command)?;
        writeln!(
            out,
            "{}\n",
            self.machine.as_object().map_or_else(String::new, describe)
        )?;
        writeln!(
            out,
            "| case | load | req/s | p50 ms | p99 ms | CPU us/req | delivery p50 / p99 ms | : floor req/s | p50 | p99 | CPU |"
        )?;
        writeln!(
            out,
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        )?;
        for row in &self.rows {
            let load = match row.load {
                Load::Fixed => format!("{}/s", self.args.rate),
                Load::Full => "full".to_owned(),
            };
            write!(out, "| {} | {load} |", row.case)?;
            for (digits, (_, of)) in [0, 3, 3, 1].iter().zip(COLUMNS) {
                write!(out, " {} |", cell(row.median(of), *digits))?;
            }
            let delivery = [4, 5]
                .map(|index| cell(row.median(COLUMNS[index].1), 3))
                .join(" / ");
            write!(
                out,
                " {} |",
                if delivery.starts_with(' ') {
                    String::new()
                } else {
                    delivery
                }
            )?;
            for (_, of) in &COLUMNS[..4] {
                write!(
                    out,
                    " {} |",
                    cell(self.floor(row.load).and_then(|floor| row.ratio(floor, of)), 2)
                )?;
            }
            writeln!(out)?;
        }
        self.footprint(out)
    }
}

impl Report {
    fn footprint(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "\n| process | RSS idle MB | anonymous idle MB | RSS after load MB | anonymous after load MB |"
        )?;
        writeln!(out, "| --- | ---: | ---: | ---: | ---: |")?;
        for ((name, idle), (_, loaded)) in self.idle.iter().zip(&self.loaded) {
            let mb = |kb: u64| format!("{:.1}", kb as f64 / 1024.0);
            let cells = [idle.rss_kb, idle.anonymous_kb, loaded.rss_kb, loaded.anonymous_kb]
                .map(mb)
                .join(" | ");
            writeln!(out, "| {name} | {cells} |")?;
        }
        if let Some(startup) = self.startup {
            writeln!(
                out,
                "\nexec to ready, median of {}: healthz/outbound {:.1} ms, healthz {:.1} ms (slowest {:.1} ms)",
                startup.starts, startup.outbound_ms, startup.healthz_ms, startup.slowest_healthz_ms
            )?;
        }
        for (name, size) in &self.binaries {
            writeln!(out, "{name}: {:.1} MB", *size as f64 / 1e6)?;
        }
        Ok(())
    }
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(String::new, |value| format!("{value:.digits$}"))
}

/// The sizes of the binaries that are measured.
fn binaries(bins: &Path) -> Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for name in [
        "daprd",
        "outrigger",
        "operator",
        "injector",
        "sentry",
        "placement",
        "scheduler",
    ] {
        let path: PathBuf = bins.join(name);
        if path.is_file() {
            found.push((name.to_owned(), path.metadata()?.len()));
        }
    }
    Ok(found)
}

/// What it ran on.
fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let load = read("/proc/loadavg");
    json!({
        "cpu": model.map(|(_, name)| name),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average_before": load.split(' ').next(),
    })
}

fn describe(machine: &serde_json::Map<String, Value>) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    machine
        .iter()
        .map(|(name, value)| format!("{name}: {}", text(value)))
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_row(case: &'static str, cpu: &[f64]) -> Row {
        let one = Latencies {
            p50_ms: 1.0,
            p90_ms: 1.0,
            p99_ms: 1.0,
            p999_ms: 1.0,
            max_ms: 1.0,
        };
        let measure = |cpu: &f64| Measure {
            requests_per_second: 1000.0,
            latency: one,
            lag: one,
            cpu_us_per_request: Some(*cpu),
            delivery: None,
            memory: None,
        };
        Row {
            case,
            load: Load::Full,
            rounds: cpu.iter().map(measure).collect(),
        }
    }

    #[test]
    fn a_ratio_is_formed_within_each_round() {
        // The machine was three times slower in the second round: both sides were, and the ratio does not move.
        let (floor, invoke) = (
            mk_row("floor", &[10.0, 30.0, 10.0]),
            mk_row("invoke", &[12.0, 36.0, 12.0]),
        );
        let ratio = invoke
            .ratio(&floor, |measure| measure.cpu_us_per_request)
            .expect("there are rounds");
        assert!((ratio - 1.2).abs() < 1e-9, "{ratio}");
    }
}
