//! Files as apps make and read them.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use outrigger_components_api::bindings::OutputBinding as _;
use outrigger_components_api::testing::bindings::{Output, invoke, output_suite, request};
use outrigger_components_api::testing::init_context;
use outrigger_components_local_storage::LocalStorage;

async fn open(root: &Path) -> LocalStorage {
    LocalStorage::open(&init_context("files", [("rootPath", root.to_str().unwrap())]))
        .await
        .unwrap()
}

async fn call(binding: &LocalStorage, operation: &str, data: &str, name: &str) -> Result<String, String> {
    let answer = invoke(binding, operation, data, [("fileName", name)]).await;
    let answer = answer.map_err(|error| error.text)?;
    let data = answer.and_then(|answer| answer.data).unwrap_or_default();
    Ok(String::from_utf8(data.to_vec()).unwrap())
}

/// A name for a file with this data.
fn name_of(data: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    format!("{}/{:x}", data.len(), hasher.finish())
}

#[tokio::test]
async fn the_binding_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    let output = Output {
        operations: &["create", "get", "list", "delete"],
        // What is base64 is decoded.
        write: &|data| {
            let text = base64::engine::general_purpose::STANDARD.encode(data);
            request("create", &text, [("fileName", name_of(data).as_str())])
        },
        largest: 5 << 20,
        takes_bytes: true,
        ends_with_close: false,
    };
    output_suite(Arc::new(open(dir.path()).await), output, async |data| {
        assert!(std::fs::read(dir.path().join(name_of(data))).unwrap() == data);
    })
    .await;
}

#[tokio::test]
async fn files_are_made_read_listed_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let binding = open(&root.join("new/folder")).await;
    let root = root.join("new/folder");
    assert_eq!(
        call(&binding, "create", "\"hello!\"", "d/é.txt").await.unwrap(),
        "{\"fileName\":\"d/é.txt\"}"
    );
    assert_eq!(call(&binding, "get", "", "d/é.txt").await.unwrap(), "hello!");
    assert_eq!(
        call(&binding, "list", "", "").await.unwrap(),
        format!("[\"{}/d/é.txt\"]", root.display())
    );
    assert_eq!(call(&binding, "delete", "", "d/é.txt").await.unwrap(), "");
    assert_eq!(
        call(&binding, "get", "", "d/é.txt").await.unwrap_err(),
        format!("file not found: {}/d/é.txt", root.display())
    );
    assert!(
        call(&binding, "list", "", "nothing")
            .await
            .unwrap_err()
            .contains("no such file")
    );
    assert!(
        call(&binding, "delete", "", "..")
            .await
            .unwrap_err()
            .contains("root folder")
    );
}

#[tokio::test]
async fn nothing_outside_the_root_is_reached() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "s").unwrap();
    let root = dir.path().join("root");
    let binding = open(&root).await;
    assert!(
        call(&binding, "get", "", "../outside/secret")
            .await
            .unwrap_err()
            .starts_with("file not found")
    );
    std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
    std::os::unix::fs::symlink(outside.join("none"), root.join("dangling")).unwrap();
    for (operation, name) in [
        ("get", "link/secret"),
        ("create", "link/new"),
        ("create", "dangling"),
        ("list", "link"),
    ] {
        let error = call(&binding, operation, "x", name).await.unwrap_err();
        assert!(error.contains("out of rootPath"), "{operation} {name}: {error}");
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

#[tokio::test]
async fn a_root_is_needed_and_must_not_be_the_systems() {
    for (root, text) in [("", "rootPath"), ("/proc/x", "not allowed")] {
        let error = LocalStorage::open(&init_context("files", [("rootPath", root)]))
            .await
            .unwrap_err();
        assert!(error.0.contains(text), "{error}");
    }
}

#[tokio::test]
async fn an_unknown_operation_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let binding = open(dir.path()).await;
    let error = binding.invoke(request("rename", "", [])).await.unwrap_err();
    assert_eq!(error.text, "unsupported operation rename");
}
