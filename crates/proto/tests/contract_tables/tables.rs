//! Facts as the contract's tables state them. `testdata/contract/README.md` explains their notation.

use std::path::PathBuf;

use super::Facts;

const NO_PACKAGE_HEADING: &str = "(no package) — durabletask root";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/contract")
}

fn read(path: &PathBuf) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All facts of all tables. Panics on a line that does not fit the notation.
pub(crate) fn facts() -> Facts {
    let mut facts = Facts::new();
    for entry in std::fs::read_dir(folder()).expect("test data") {
        let path = entry.expect("test data").path();
        if path.file_name().is_some_and(|name| name != "README.md") {
            table_facts(&read(&path), &mut facts);
        }
    }
    facts
}

/// Per package, how many services, methods, messages, fields and enums the contract counts.
pub(crate) fn counts() -> Vec<(String, [usize; 5])> {
    let readme = read(&folder().join("README.md"));
    let rows = readme.lines().filter(|line| line.starts_with("| [")).map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let package = cells[2].trim_matches('`');
        let services = if cells[3] == "—" {
            0
        } else {
            cells[3].split(',').count()
        };
        let number = |cell: usize| cells[cell].parse().expect("a count");
        let package = if package == "(none)" { "" } else { package };
        (
            package.to_owned(),
            [services, number(4), number(5), number(6), number(7)],
        )
    });
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.len(), 11, "the README lists 11 packages");
    rows
}

/// Whether a fact is of this kind and about something that belongs directly to this package.
pub(crate) fn is_about(fact: &str, kind: &str, package: &str) -> bool {
    let mut words = fact.split(' ');
    if words.next() != Some(kind) {
        return false;
    }
    let name = words.next().unwrap_or_default();
    let prefix = if package.is_empty() {
        ".".to_owned()
    } else {
        format!(".{package}.")
    };
    // Names of types start in upper case, names of packages do not.
    name.strip_prefix(&prefix)
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// Where the parser of one table stands.
struct Table {
    package: String,
    file: String,
    /// The service, message or enum that the indented lines belong to, fully qualified.
    owner: String,
    within: Within,
}

#[derive(PartialEq)]
enum Within {
    Text,
    Services,
    File,
    Enum,
}

fn table_facts(text: &str, facts: &mut Facts) {
    let title = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("# "))
        .expect("a title");
    let package = if title == NO_PACKAGE_HEADING { "" } else { title };
    let mut table = Table {
        package: package.to_owned(),
        file: String::new(),
        owner: String::new(),
        within: Within::Text,
    };
    let mut fenced = false;
    for line in text.lines().skip(1) {
        if let Some(heading) = line.strip_prefix("## ") {
            table.heading(heading, facts);
        } else if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            table.line(line, facts);
        }
    }
}

impl Table {
    fn heading(&mut self, heading: &str, facts: &mut Facts) {
        self.owner.clear();
        if heading == "Services" {
            self.within = Within::Services;
        } else if heading.ends_with(".proto") {
            self.within = Within::File;
            heading.clone_into(&mut self.file);
            facts.insert(format!("file {heading} of package '{}' is proto3", self.package));
        } else {
            self.within = Within::Text;
        }
    }

    fn line(&mut self, line: &str, facts: &mut Facts) {
        // What follows is a remark.
        let line = line.split_once("   # ").map_or(line, |(fact, _)| fact);
        let indented = line.starts_with("  ");
        let line = line.trim();
        match (&self.within, indented) {
            (Within::Text, _) => panic!("a table below no heading: {line}"),
            _ if line.is_empty() => {}
            (Within::Services, false) => self.service(line, facts),
            (Within::Services, true) => self.method(line, facts),
            (_, false) => self.declaration(line, facts),
            (_, true) if line.starts_with("reserved ") => self.reserved(line, facts),
            (Within::Enum, true) => self.values(line, facts),
            (Within::File, true) => self.field(line, facts),
        }
    }

    /// The full name, with a leading dot, of a name as the tables shorten it.
    fn resolve(&self, name: &str) -> String {
        if name.starts_with('.') {
            name.to_owned()
        } else if name.starts_with("google.protobuf.") {
            format!(".{name}")
        } else if name.contains(".v1.") {
            format!(".dapr.proto.{name}")
        } else if self.package.is_empty() {
            format!(".{name}")
        } else {
            format!(".{}.{name}", self.package)
        }
    }

    fn service(&mut self, line: &str, facts: &mut Facts) {
        let (name, rest) = line.split_once(' ').expect("a service and its path");
        let path = rest
            .trim()
            .strip_prefix("(path prefix ")
            .and_then(|r| r.strip_suffix(')'))
            .expect("a path");
        self.owner = self.resolve(name);
        facts.insert(format!(
            "service {} in package '{}', path prefix {path}",
            self.owner, self.package
        ));
    }

    fn method(&self, line: &str, facts: &mut Facts) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, kind, input, "→", output, flags @ ..] = words.as_slice() else {
            panic!("not a method: {line}");
        };
        let deprecated = match flags {
            [] => "",
            ["deprecated"] => " deprecated",
            _ => panic!("unknown flags: {line}"),
        };
        facts.insert(format!(
            "method {}/{name} {kind} {} to {}{deprecated}",
            self.owner,
            self.resolve(input),
            self.resolve(output)
        ));
    }

    fn declaration(&mut self, line: &str, facts: &mut Facts) {
        if let Some(name) = line.strip_prefix("enum ") {
            self.within = Within::Enum;
            self.owner = self.resolve(name);
            facts.insert(format!("enum {} in {}", self.owner, self.file));
            return;
        }
        self.within = Within::File;
        let line = line.trim_end_matches("(no fields)").trim();
        let (name, deprecated) = match line.split_once(' ') {
            None => (line, ""),
            Some((name, "deprecated")) => (name, " deprecated"),
            Some(_) => panic!("not a message: {line}"),
        };
        self.owner = self.resolve(name);
        facts.insert(format!("message {} in {}{deprecated}", self.owner, self.file));
    }

    fn reserved(&self, line: &str, facts: &mut Facts) {
        for item in line.trim_start_matches("reserved ").split(", ") {
            facts.insert(format!("reserved {} {item}", self.owner));
        }
    }

    fn values(&self, line: &str, facts: &mut Facts) {
        for item in line.trim_end_matches(',').split(", ") {
            let (number, name) = item.split_once(' ').expect("a number and a name");
            let number: i32 = number.parse().expect("a number");
            facts.insert(format!("value {} {number} {name}", self.owner));
        }
    }

    fn field(&self, line: &str, facts: &mut Facts) {
        let (number, rest) = line.split_once(' ').expect("a number and a field");
        let number: u32 = number.parse().unwrap_or_else(|_| panic!("not a field: {line}"));
        let (name, rest) = rest.split_once(": ").expect("a name and a type");
        let (kind, flags) = self.kind(rest);
        let (mut json, mut presence, mut deprecated) = (lower_camel(name), String::new(), "");
        for flag in flags.split_whitespace() {
            match flag.split_once('=') {
                None if flag == "optional" => presence = " optional".to_owned(),
                None if flag == "deprecated" => deprecated = " deprecated",
                Some(("oneof", group)) => presence = format!(" oneof={group}"),
                Some(("json", other)) => json = other.to_owned(),
                _ => panic!("unknown flag {flag}: {line}"),
            }
        }
        facts.insert(format!(
            "field {} {number} {name}: {kind} json={json}{presence}{deprecated}",
            self.owner
        ));
    }

    /// Splits `map<string, X> optional` into the type, with full names, and the flags.
    fn kind<'a>(&self, text: &'a str) -> (String, &'a str) {
        if let Some(rest) = text.strip_prefix("repeated ") {
            let (kind, flags) = self.kind(rest);
            return (format!("repeated {kind}"), flags);
        }
        if let Some(rest) = text.strip_prefix("map<") {
            let (inner, flags) = rest.split_once('>').expect("the end of the map");
            let (key, value) = inner.split_once(", ").expect("key and value");
            return (format!("map<{key}, {}>", self.kind(value).0), flags);
        }
        if let Some(rest) = text.strip_prefix("enum ") {
            let (name, flags) = rest.split_once(' ').unwrap_or((rest, ""));
            return (format!("enum {}", self.resolve(name)), flags);
        }
        let (name, flags) = text.split_once(' ').unwrap_or((text, ""));
        let scalars = [
            "bool", "bytes", "double", "int32", "int64", "string", "uint32", "uint64",
        ];
        let kind = if scalars.contains(&name) {
            name.to_owned()
        } else {
            self.resolve(name)
        };
        (kind, flags)
    }
}

/// The name that protobuf gives a field in JSON unless told otherwise.
fn lower_camel(name: &str) -> String {
    let mut upper = false;
    let mut result = String::new();
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else if std::mem::take(&mut upper) {
            result.push(c.to_ascii_uppercase());
        } else {
            result.push(c);
        }
    }
    result
}
