//! The README's first command, without the building of our own binaries, which the tests need anyway.

use std::process::Command;

use outrigger_e2e::process::{binary, exclusive};
use outrigger_e2e::sdk::root;

#[tokio::test]
async fn the_demo_tells_its_whole_story() {
    // Its ports are fixed, so that the README can name them.
    let _alone = exclusive("demo").await;
    let (outrigger, daprd) = (binary("outrigger"), binary("daprd"));
    let folder = outrigger.parent();
    assert_eq!(folder, daprd.parent());
    let folder = folder.unwrap_or_else(|| panic!("a binary lies in a folder"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["xtask", "demo", "--once", "--bins"])
        .arg(folder)
        .current_dir(root())
        .output()
        .unwrap_or_else(|e| panic!("cannot start cargo: {e}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    for step in [
        "3. invocation:",
        "4. state:",
        "5. event:",
        "6. an order of 99",
        "demo: done",
        "demo: stopped",
    ] {
        assert!(text.contains(step), "no {step:?} in\n{text}");
    }
}
