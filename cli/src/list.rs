//! `outrigger list`.

use anyhow::Context;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::args::{Format, ListArgs};
use crate::instances::{Extended, Instance, running};

/// One line of the list; the names are those of the stock CLI's JSON and YAML.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    app_id: String,
    http_port: u16,
    grpc_port: u16,
    app_port: u16,
    metrics_enabled: bool,
    command: String,
    age: String,
    created: String,
    daprd_pid: u32,
    cli_pid: u32,
    app_pid: u32,
    run_template_path: String,
    run_template_name: String,
    app_log_path: String,
    daprd_log_path: String,
}

/// Prints what runs on this machine.
///
/// # Errors
/// If this machine does not show its processes.
pub(crate) async fn run(args: &ListArgs) -> anyhow::Result<u8> {
    let mut asked = JoinSet::new();
    for (at, instance) in running()?.into_iter().enumerate() {
        asked.spawn(async move {
            let extended = instance.extended().await;
            (at, instance, extended)
        });
    }
    let mut found = asked.join_all().await;
    found.sort_by_key(|(at, ..)| *at);
    let now = jiff::Timestamp::now().as_second();
    let rows: Vec<Row> = found
        .into_iter()
        .map(|(_, instance, extended)| row(instance, extended, now))
        .collect();
    match args.output {
        Format::Table if rows.is_empty() => println!("No Dapr instances found."),
        Format::Table => print!("{}", table(&rows)),
        Format::Json => println!("{}", serde_json::to_string_pretty(&rows)?),
        Format::Yaml => print!("{}", serde_saphyr::to_string(&rows).context("cannot write YAML")?),
    }
    Ok(0)
}

fn row(instance: Instance, extended: Extended, now: i64) -> Row {
    let started = i64::try_from(instance.started).unwrap_or(0);
    let created = match jiff::Timestamp::from_second(started) {
        Ok(time) if started > 0 => time
            .to_zoned_datetime(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%d %H:%M.%S")
            .to_string(),
        _ => String::new(),
    };
    Row {
        app_id: instance.app_id,
        http_port: instance.http_port,
        grpc_port: instance.grpc_port,
        app_port: instance.app_port,
        metrics_enabled: instance.metrics_enabled,
        command: extended.app_command,
        age: if started > 0 {
            age(now - started)
        } else {
            String::new()
        },
        created,
        daprd_pid: instance.pid,
        cli_pid: extended.cli_pid.parse().unwrap_or(0),
        app_pid: extended.app_pid.parse().unwrap_or(0),
        run_template_path: extended.run_template_path,
        run_template_name: extended.run_template_name,
        app_log_path: extended.app_log_path,
        daprd_log_path: extended.daprd_log_path,
    }
}

/// An age in its greatest unit, as Kubernetes tools show it.
fn age(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..86400 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86400),
    }
}

fn table(rows: &[Row]) -> String {
    let number = |value: u32| {
        if value == 0 {
            String::new()
        } else {
            value.to_string()
        }
    };
    let head = [
        "APP ID",
        "HTTP PORT",
        "GRPC PORT",
        "APP PORT",
        "COMMAND",
        "AGE",
        "CREATED",
        "DAPRD PID",
        "CLI PID",
        "APP PID",
        "RUN TEMPLATE",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        [
            row.app_id.clone(),
            row.http_port.to_string(),
            row.grpc_port.to_string(),
            row.app_port.to_string(),
            shortened(&row.command),
            row.age.clone(),
            row.created.clone(),
            row.daprd_pid.to_string(),
            number(row.cli_pid),
            number(row.app_pid),
            row.run_template_name.clone(),
        ]
    }));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths);
        let padded: Vec<String> = cells.map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Commands can be long; the rest is in `-o json`.
fn shortened(command: &str) -> String {
    const MOST: usize = 30;
    match command.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &command[..end]),
        None => command.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lines_up() {
        let instance = Instance {
            app_id: "orders".into(),
            http_port: 3601,
            grpc_port: 3602,
            app_port: 0,
            metrics_enabled: true,
            pid: 77,
            started: 0,
            sockets: None,
        };
        let extended = Extended {
            cli_pid: "12".into(),
            app_command: "python3 app.py".into(),
            ..Extended::default()
        };
        let text = table(&[row(instance, extended, 100)]);
        let expected = "APP ID  HTTP PORT  GRPC PORT  APP PORT  COMMAND         AGE  CREATED  DAPRD PID  CLI PID  APP PID  RUN TEMPLATE\n\
                        orders  3601       3602       0         python3 app.py                77         12\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn ages_have_one_unit() {
        let ages = [-5, 59, 60, 3599, 3600, 86399, 90000].map(age);
        assert_eq!(ages, ["0s", "59s", "1m", "59m", "1h", "23h", "1d"]);
    }
}
