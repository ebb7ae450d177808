//! Models by name, from the cache that a setting names.

use std::fs;

use crate::case::{GOOD, bge, copy, finetune, fixture, words};

#[test]
fn a_tokenizer_by_name_is_found_in_cache_dir_to_validate_and_to_train() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let named = at.join("cache/models--org--name");
    fs::create_dir_all(named.join("refs")).unwrap();
    fs::create_dir_all(named.join("snapshots")).unwrap();
    fs::write(named.join("refs/main"), commit).unwrap();
    copy(&fixture("models/bert"), &named.join("snapshots").join(commit));
    copy(&fixture("models/bert"), &at.join("model"));
    fs::write(at.join("data.jsonl"), GOOD).unwrap();
    let by_name = ["--tokenizer_name", "org/name", "--cache_dir", "cache"];
    let validate = words(
        &[
            &["validate", "data.jsonl", "--train_group_size", "2"],
            &by_name[..],
        ]
        .concat(),
    );
    for args in [validate, finetune(&by_name)] {
        let output = bge(at).args(&args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
    }
}
