//! `process_*` metrics, read from `/proc` when they are asked for.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Opts};

/// Linux counts CPU time for user space in hundredths of a second on every architecture we build for.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) struct ProcessCollector {
    cpu_seconds: Counter,
    open_fds: Gauge,
    max_fds: Gauge,
    virtual_memory: Gauge,
    virtual_memory_max: Gauge,
    resident_memory: Gauge,
    start_time: Gauge,
}

/// What `/proc` says of this process; what cannot be read stays zero.
#[derive(Debug, Default, PartialEq)]
struct Reading {
    cpu_seconds: f64,
    open_fds: f64,
    max_fds: f64,
    virtual_memory: f64,
    virtual_memory_max: f64,
    resident_memory: f64,
    start_time: f64,
}

impl ProcessCollector {
    pub(super) fn new() -> Self {
        let gauge =
            |name: &str, help: &str| Gauge::with_opts(Opts::new(name, help)).expect("the name is valid");
        Self {
            cpu_seconds: Counter::with_opts(Opts::new(
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
            ))
            .expect("the name is valid"),
            open_fds: gauge("process_open_fds", "Number of open file descriptors."),
            max_fds: gauge("process_max_fds", "Maximum number of open file descriptors."),
            virtual_memory: gauge("process_virtual_memory_bytes", "Virtual memory size in bytes."),
            virtual_memory_max: gauge(
                "process_virtual_memory_max_bytes",
                "Maximum amount of virtual memory available in bytes.",
            ),
            resident_memory: gauge("process_resident_memory_bytes", "Resident memory size in bytes."),
            start_time: gauge(
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
            ),
        }
    }

    fn all(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu_seconds,
            &self.open_fds,
            &self.max_fds,
            &self.virtual_memory,
            &self.virtual_memory_max,
            &self.resident_memory,
            &self.start_time,
        ]
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let reading = read();
        let grown = reading.cpu_seconds - self.cpu_seconds.get();
        if grown > 0.0 {
            self.cpu_seconds.inc_by(grown);
        }
        self.open_fds.set(reading.open_fds);
        self.max_fds.set(reading.max_fds);
        self.virtual_memory.set(reading.virtual_memory);
        self.virtual_memory_max.set(reading.virtual_memory_max);
        self.resident_memory.set(reading.resident_memory);
        self.start_time.set(reading.start_time);
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}

fn read() -> Reading {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut reading = parse(
        &file("/proc/self/stat"),
        &file("/proc/self/status"),
        &file("/proc/self/limits"),
        &file("/proc/stat"),
    );
    reading.open_fds = std::fs::read_dir("/proc/self/fd").map_or(0.0, |fds| fds.count() as f64);
    reading
}

fn parse(stat: &str, status: &str, limits: &str, system: &str) -> Reading {
    // The program's name stands in brackets and may hold anything; numbered fields follow from 3 on.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<f64>().ok());
    let number = field;
    let line = |text: &str, start: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(start));
        line.and_then(|rest| rest.split_whitespace().next())
            .map(str::to_owned)
    };
    let value = |text: Option<String>| text.and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    let limit = |start: &str| match line(limits, start) {
        // As Go's client shows an unlimited amount.
        Some(text) if text == "unlimited" => u64::MAX as f64,
        text => value(text),
    };
    let boot = value(line(system, "btime"));
    Reading {
        cpu_seconds: (number(14).unwrap_or_default() + number(15).unwrap_or_default()) / TICKS_PER_SECOND,
        open_fds: 0.0,
        max_fds: limit("Max open files"),
        virtual_memory: number(23).unwrap_or_default(),
        virtual_memory_max: limit("Max address space"),
        resident_memory: value(line(status, "VmRSS:")) * 1024.0,
        start_time: number(22).map_or(0.0, |ticks| boot + ticks / TICKS_PER_SECOND),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_by_field() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 1000 123456 789 18446744073709551615";
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 4096                 files\n\
                      Max address space         unlimited            unlimited            bytes\n";
        let reading = parse(
            stat,
            "Name:\tx\nVmRSS:\t  2048 kB\n",
            limits,
            "cpu 1 2\nbtime 1700000000\n",
        );
        assert_eq!(
            reading,
            Reading {
                cpu_seconds: 3.0,
                open_fds: 0.0,
                max_fds: 1024.0,
                virtual_memory: 123_456.0,
                virtual_memory_max: u64::MAX as f64,
                resident_memory: 2048.0 * 1024.0,
                start_time: 1_700_000_010.0,
            }
        );
        assert_eq!(parse("", "", "", ""), Reading::default());
    }

    #[test]
    fn this_process_has_memory_files_and_a_start() {
        let reading = read();
        assert!(
            reading.resident_memory > 0.0 && reading.open_fds > 0.0 && reading.start_time > 1e9,
            "{reading:?}"
        );
    }
}
