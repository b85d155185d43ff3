//! Writes the definitions into a folder, one YAML file each: `cargo xtask crds` runs it.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: crdgen FOLDER");
        return ExitCode::FAILURE;
    };
    for definition in outrigger_crds::all() {
        let path = Path::new(&folder).join(definition.file);
        if let Err(error) = definition.yaml().and_then(|text| {
            std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
        }) {
            eprintln!("crdgen: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
