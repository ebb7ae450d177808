//! Broken, contradictory and oversized input.

use super::*;

#[test]
fn broken_files_are_named_with_their_line() {
    let issues = Loader::<FinetuneConfig>::new()
        .file("run.toml", "seed = 1\nlearning_rate = = 2\n")
        .finish()
        .unwrap_err();
    assert_eq!(
        (only(&issues).code, only(&issues).line),
        ("config.syntax", Some(2))
    );
    assert!(
        only(&issues)
            .to_string()
            .starts_with("run.toml:2: error[config.syntax]"),
        "{}",
        issues[0]
    );
    let issues = FinetuneConfig::from_json("{\n\"seed\": 1,\n}").unwrap_err();
    assert_eq!(
        (only(&issues).code, only(&issues).line),
        ("config.syntax", Some(3))
    );
    let issues = FinetuneConfig::from_toml("[data]\n\nquery_max_len = 'x'\ntemprature = 1").unwrap_err();
    let lines: Vec<_> = issues.iter().map(|issue| issue.line).collect();
    assert_eq!(lines, [Some(3), Some(4)]);
    for text in ["[1]", "7", "", "null", "\"x\"", "{", "{\"seed\": 1e999}"] {
        assert_eq!(
            only(&FinetuneConfig::from_json(text).unwrap_err()).code,
            "config.syntax",
            "{text}"
        );
    }
    assert!(FinetuneConfig::from_toml("").is_ok());
    assert!(FinetuneConfig::from_json("\u{feff}{\"seed\": 1}").is_ok());
    assert!(FinetuneConfig::from_toml("\u{feff}seed = 1\r\n").is_ok());
}

#[test]
fn a_key_given_twice_is_an_error_wherever_it_stands() {
    let duplicate = "config.duplicate_key";
    let issues = FinetuneConfig::from_json(r#"{"seed": 1, "seed": 2}"#).unwrap_err();
    assert_eq!(only(&issues).code, duplicate);
    let issues = FinetuneConfig::from_json(r#"{"a": {"seed": 1}, "b": {"seed": 2}}"#).unwrap_err();
    assert_eq!(only(&issues).code, duplicate);
    let issues =
        FinetuneConfig::from_json(r#"{"lr_scheduler_kwargs": {"power": 1, "power": 2}}"#).unwrap_err();
    assert_eq!(only(&issues).code, duplicate);
    let issues = FinetuneConfig::from_toml("[a]\nseed = 1\n[b]\nseed = 2").unwrap_err();
    assert_eq!((only(&issues).code, only(&issues).line), (duplicate, Some(4)));
    assert!(only(&issues).message.contains("line 2"));
    // Two spellings of one setting are the same key.
    let issues = FinetuneConfig::from_toml("eval_strategy = 'no'\nevaluation_strategy = 'no'").unwrap_err();
    assert_eq!(only(&issues).code, duplicate);
    // In one table TOML itself objects.
    assert_eq!(
        only(&FinetuneConfig::from_toml("seed = 1\nseed = 2").unwrap_err()).line,
        Some(2)
    );
}

#[test]
fn values_of_a_wrong_kind_say_what_was_seen_and_what_is_accepted() {
    for (text, seen) in [
        ("seed = -1", "-1"),
        ("seed = 1.5", "1.5"),
        ("seed = 99999999999999999999999", "99999999999999999999999"),
        ("learning_rate = nan", "nan"),
        ("learning_rate = inf", "inf"),
        ("learning_rate = 'fast'", "fast"),
        ("output_dir = 5", "5"),
        ("train_data = [1]", "1"),
        ("mrl_dims = ['a']", "a"),
        ("fp16 = 2", "2"),
        ("lr_scheduler_kwargs = 5", "5"),
        ("seed = { a = 1 }", "{"),
        ("save_strategy = 'weekly'", "weekly"),
        ("learning_rate = 1979-05-27", "1979"),
    ] {
        let issues = FinetuneConfig::from_toml(text).unwrap_err();
        let issue = only(&issues);
        assert_eq!(
            (issue.code, issue.line),
            ("config.invalid_value", Some(1)),
            "{text}"
        );
        assert!(
            issue.message.contains("expected") && issue.message.contains(seen),
            "{text}: {}",
            issue.message
        );
    }
    for flags in [
        "--seed 1e5",
        "--seed 0x10",
        "--learning_rate nan",
        "--learning_rate -inf",
        "--temperature 1e999",
    ] {
        assert_eq!(
            only(&parse(flags).unwrap_err()).code,
            "config.invalid_value",
            "{flags:?}"
        );
    }
    let issues = FinetuneConfig::from_json(r#"{"output_dir": "a\u0000b", "seed": null}"#).unwrap_err();
    assert_eq!(issues.len(), 2);
    assert!(issues[0].message.contains("NUL"));
    assert_eq!(
        only(&parse_words(&["--output_dir", "a\0b"]).unwrap_err()).code,
        "config.invalid_value"
    );
    // Whole numbers written as floats, and single values for lists, are what people mean.
    let parsed =
        FinetuneConfig::from_toml("max_example_num_per_dataset = 1e6\ntrain_data = 'a.jsonl'\nmrl_dims = 64")
            .unwrap();
    assert_eq!(parsed.arguments.data.max_example_num_per_dataset, 1_000_000);
    assert_eq!(parsed.arguments.data.train_data, ["a.jsonl"]);
}

#[test]
fn names_and_values_cannot_steer_a_terminal() {
    for issues in [
        FinetuneConfig::from_json("{\"\\u001b[2J\": 1}").unwrap_err(),
        FinetuneConfig::from_json("{\"seed\": \"\\u001b[2J\"}").unwrap_err(),
        parse_words(&["--\u{1b}[2J", "1"]).unwrap_err(),
        parse_words(&["\u{1b}[2J"]).unwrap_err(),
        parse_words(&["--x\u{1b}[2J"]).unwrap_err(),
        parse_words(&["--seed", "\u{1b}[2J"]).unwrap_err(),
    ] {
        assert!(
            !issues.iter().any(|issue| issue.to_string().contains('\u{1b}')),
            "{issues:?}"
        );
    }
}

#[test]
fn hostile_input_ends_in_one_short_message() {
    let deep_json = format!("{}{}", "{\"a\":".repeat(100_000), "1");
    assert_eq!(
        only(&FinetuneConfig::from_json(&deep_json).unwrap_err()).code,
        "config.syntax"
    );
    let deep_array = format!("{{\"train_data\": {}", "[".repeat(100_000));
    assert_eq!(
        only(&FinetuneConfig::from_json(&deep_array).unwrap_err()).code,
        "config.syntax"
    );
    let deep_toml = format!("seed = {}", "[".repeat(100_000));
    assert!(FinetuneConfig::from_toml(&deep_toml).is_err());
    let dotted = format!("{}seed = 1", "a.".repeat(100_000));
    let _ = FinetuneConfig::from_toml(&dotted);
    let deep_kwargs = format!("{}{}", "{\"a\":".repeat(10_000), "1");
    assert!(parse_words(&["--lr_scheduler_kwargs", &deep_kwargs]).is_err());

    let megabyte = "x".repeat(1 << 20);
    for flags in [
        vec![format!("--{megabyte}"), "1".to_owned()],
        vec!["--seed".to_owned(), megabyte.clone()],
        vec!["--learning_rate".to_owned(), "1".repeat(1 << 20)],
        vec!["--fp16".to_owned(), megabyte.clone()],
        vec!["--save_strategy".to_owned(), megabyte.clone()],
        vec!["--optim".to_owned(), megabyte.clone()],
        vec!["--lr_scheduler_kwargs".to_owned(), megabyte.clone()],
        vec![megabyte.clone()],
        vec![format!("-{megabyte}")],
    ] {
        let issues = FinetuneConfig::from_flags(&flags).unwrap_err();
        let length = only(&issues).to_string().len();
        assert!(length < 1000, "{length} bytes of message");
    }
    // A megabyte of text is a text.
    assert_eq!(
        parse_words(&["--query_instruction_for_retrieval", &megabyte])
            .unwrap()
            .0
            .data
            .query_instruction_for_retrieval
            .map(|text| text.len()),
        Some(1 << 20)
    );
    let kwargs = json!({ megabyte.as_str(): megabyte.as_str() });
    let mut config = parse(REQUIRED).unwrap().0;
    config.set("lr_scheduler_kwargs", &kwargs).unwrap();
    config.data.query_instruction_format = megabyte.clone();
    config.training.devices = vec![megabyte.clone()];
    config.data.eval_split = format!("/{megabyte}");
    for issue in config.check().unwrap_err() {
        assert!(
            issue.to_string().len() < 1000,
            "{} is {} bytes",
            issue.code,
            issue.to_string().len()
        );
    }
}
