//! Settings: every flag goes round through shell, JSON and TOML; upstream's examples parse; mistakes are named.

#[path = "../bge_core/src/bin/bge/config.rs"]
mod command;
mod deepspeed;
mod hostile;
mod output;
mod parsing;
mod rules;
mod upstream;

use std::fmt::Write as _;

use bge_core::config::{
    Arguments, ConvertConfig, EncodeConfig, EvaluateConfig, FieldDoc, FieldKind, FinetuneConfig,
    IntervalStrategy, KdLossType, Loader, LrSchedulerType, MergeConfig, MineConfig, Module, NumberType,
    PipelineArguments, PoolingMethod, RenderFormat, RepairConfig, RerankConfig, SaveStrategy, ScoreConfig,
    SplitConfig, config_error, documented_toml, flag_help, from_command_line, groups, json_schema,
    split_config_flag, split_words, to_flags, to_json_text, to_toml,
};
use bge_core::random::{Draws, Stream, key};
use bge_core::{ErrorKind, Issue, Severity};
use serde_json::{Map, Value, json};

const REQUIRED: &str = "--model_name_or_path m --train_data train.jsonl --output_dir runs/first";

/// Reads the flags of a command line.
fn parse(line: &str) -> Result<(FinetuneConfig, Vec<Issue>), Vec<Issue>> {
    parse_words(&split_words(line).unwrap())
}

fn parse_words<S: AsRef<str>>(words: &[S]) -> Result<(FinetuneConfig, Vec<Issue>), Vec<Issue>> {
    FinetuneConfig::from_flags(words).map(|parsed| (parsed.arguments, parsed.warnings))
}

/// What `check` says about the required flags and some more.
fn check(more: &str) -> Result<Vec<Issue>, Vec<Issue>> {
    let (config, _) = parse(&format!("{REQUIRED} {more}")).expect("the flags can be read");
    config.check().map(|checked| checked.warnings().to_vec())
}

fn refused(more: &str, field: &str, code: &str) {
    let issues = check(more).expect_err(more);
    let found = issues.iter().any(|issue| {
        issue.severity == Severity::Error && issue.code == code && issue.field.as_deref() == Some(field)
    });
    assert!(found, "{more}: {issues:#?}");
}

fn warned(more: &str, field: &str) {
    let issues = check(more).unwrap_or_else(|issues| panic!("{more}: {issues:#?}"));
    assert!(
        issues.iter().any(|issue| issue.field.as_deref() == Some(field)),
        "{more}: {issues:#?}"
    );
}

fn only(issues: &[Issue]) -> &Issue {
    assert_eq!(issues.len(), 1, "{issues:#?}");
    &issues[0]
}

fn shell(flags: &[Vec<String>]) -> Vec<String> {
    flags.concat()
}

/// Texts that break careless quoting.
const TEXTS: [&str; 16] = [
    "plain",
    "",
    "with space",
    "--looks_like_a_flag",
    "-m",
    "it's",
    "\"double\"",
    "$HOME `x` \\ back",
    "new\nline",
    "tab\tand \u{7f}",
    "日本語 🦀",
    "None",
    "a=b",
    "# no comment",
    "true",
    "1e5",
];

fn random_text(draws: &mut Draws) -> String {
    let mut text = String::new();
    for _ in 0..=draws.below(2) {
        text.push_str(TEXTS[draws.below(TEXTS.len())]);
    }
    text
}

fn random_number(draws: &mut Draws) -> f64 {
    match draws.below(6) {
        0 => draws.below(1000) as f64,
        1 => draws.unit(),
        2 => -draws.unit() * 1e-9,
        3 => f64::MAX * draws.unit(),
        4 => f64::MIN_POSITIVE * draws.unit(),
        _ => 1.0 / 3.0,
    }
}

fn random_object(draws: &mut Draws) -> Value {
    let mut map = Map::new();
    for _ in 0..draws.below(3) {
        let value = match draws.below(6) {
            0 => Value::Null,
            1 => json!(u64::MAX),
            2 => json!({ "nested": [1, 2.5, "x"] }),
            3 => json!(random_text(draws)),
            4 => json!(2.0),
            _ => json!(random_number(draws)),
        };
        map.insert(random_text(draws), value);
    }
    Value::Object(map)
}

fn random_value(field: &FieldDoc, draws: &mut Draws) -> Value {
    if field.optional && draws.below(3) == 0 {
        return Value::Null;
    }
    match field.kind {
        FieldKind::Boolean => json!(draws.below(2) == 0),
        FieldKind::Count if field.name.ends_with("seed") && draws.below(2) == 0 => {
            json!(u64::MAX - draws.below(9) as u64)
        }
        // From 1, because 0 means unset for a few of them.
        FieldKind::Count => json!(1 + draws.below(1 << 40)),
        FieldKind::Integer => json!(draws.below(1 << 40) as i64 - (1 << 39)),
        FieldKind::Number => json!(random_number(draws)),
        FieldKind::Text => json!(random_text(draws)),
        FieldKind::Choice => json!(field.choices[draws.below(field.choices.len())]),
        FieldKind::Texts => (0..draws.below(4)).map(|_| random_text(draws)).collect(),
        FieldKind::Numbers => (0..draws.below(4))
            .map(|_| draws.below(5000) as f64 / 8.0)
            .collect(),
        FieldKind::Counts => (0..draws.below(4)).map(|_| draws.below(5000)).collect(),
        FieldKind::Object => random_object(draws),
    }
}

fn random_arguments<A: Arguments>(module: Module, draws: &mut Draws) -> A {
    let mut arguments = A::default();
    for field in A::fields() {
        if !module.takes(field) || draws.below(3) == 0 {
            continue;
        }
        arguments.set(field.name, &random_value(field, draws)).unwrap();
    }
    arguments
}

fn goes_round<A: Arguments + std::fmt::Debug>(arguments: &A, module: Module) {
    let read = |loader: Loader<A>, text: &str| {
        loader
            .finish()
            .unwrap_or_else(|issues| panic!("{issues:#?}\n{text}"))
            .arguments
    };
    let start = || Loader::<A>::for_module(module);
    let toml = to_toml(arguments, module);
    assert_eq!(&read(start().toml(&toml), &toml), arguments, "{toml}");
    let toml = documented_toml(arguments, module);
    assert_eq!(&read(start().file("x.toml", &toml), &toml), arguments, "{toml}");
    let text = to_json_text(arguments, module);
    assert_eq!(&read(start().file("x.json", &text), &text), arguments, "{text}");
    let flags = shell(&to_flags(arguments, module));
    assert_eq!(
        &read(start().flags(&flags), &format!("{flags:?}")),
        arguments,
        "{flags:?}"
    );
}

#[test]
fn generated_settings_go_round_through_toml_json_and_flags() {
    for index in 0..120 {
        let mut draws = Draws::new(key(7, Stream::EpochOrder, index));
        for module in [
            Module::EncoderOnlyBase,
            Module::EncoderOnlyM3,
            Module::RerankerEncoderOnlyBase,
        ] {
            let config: FinetuneConfig = random_arguments(module, &mut draws);
            goes_round(&config, module);
            let text = config.render(RenderFormat::Flags, module);
            let words = split_words(&text).unwrap();
            let read = Loader::<FinetuneConfig>::for_module(module)
                .flags(&words)
                .finish()
                .unwrap();
            assert_eq!(read.arguments, config, "{text}");
        }
        fn any<A: Arguments + std::fmt::Debug>(draws: &mut Draws) {
            let arguments: A = random_arguments(Module::default(), draws);
            goes_round(&arguments, Module::default());
        }
        any::<ConvertConfig>(&mut draws);
        any::<RepairConfig>(&mut draws);
        any::<SplitConfig>(&mut draws);
        any::<EncodeConfig>(&mut draws);
        any::<EvaluateConfig>(&mut draws);
        any::<MineConfig>(&mut draws);
        any::<ScoreConfig>(&mut draws);
        any::<RerankConfig>(&mut draws);
        any::<MergeConfig>(&mut draws);
        any::<PipelineArguments>(&mut draws);
    }
}

#[test]
fn every_flag_goes_round_alone_and_is_documented() {
    fn all<A: Arguments + std::fmt::Debug>(module: Module) {
        let mut draws = Draws::new(key(3, Stream::EpochOrder, 0));
        for field in A::fields() {
            assert!(
                field.help.ends_with('.') && field.help.len() > 10,
                "{}: {:?}",
                field.name,
                field.help
            );
            assert!(
                !field.optional || field.default.is_null(),
                "{} cannot be unset by a file",
                field.name
            );
            for _ in 0..8 {
                let mut arguments = A::default();
                arguments
                    .set(field.name, &random_value(field, &mut draws))
                    .unwrap();
                if module.takes(field) {
                    goes_round(&arguments, module);
                }
            }
        }
        let mut names: Vec<_> = A::fields().iter().map(|field| field.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), A::fields().len(), "two settings share a name");
        for group in groups::<A>() {
            let taken = A::field(group).is_some()
                || A::alias(group).is_some()
                || A::foreign().iter().any(|foreign| foreign.name == group);
            assert!(!taken, "the section [{group}] would be read as a setting");
        }
        for foreign in A::foreign() {
            assert!(
                A::field(foreign.name).is_none() && A::alias(foreign.name).is_none(),
                "{}",
                foreign.name
            );
        }
    }
    all::<FinetuneConfig>(Module::EncoderOnlyM3);
    all::<FinetuneConfig>(Module::RerankerEncoderOnlyBase);
    all::<ConvertConfig>(Module::default());
    all::<RepairConfig>(Module::default());
    all::<SplitConfig>(Module::default());
    all::<EncodeConfig>(Module::default());
    all::<EvaluateConfig>(Module::default());
    all::<MineConfig>(Module::default());
    all::<ScoreConfig>(Module::default());
    all::<RerankConfig>(Module::default());
    all::<MergeConfig>(Module::default());
}

#[test]
fn the_defaults_are_upstreams() {
    let FinetuneConfig {
        model,
        data,
        training,
    } = FinetuneConfig::default();
    assert!(model.use_fast_tokenizer && !model.trust_remote_code);
    assert_eq!(
        (data.train_group_size, data.query_max_len, data.passage_max_len),
        (8, 32, 128)
    );
    assert_eq!(data.max_example_num_per_dataset, 100_000_000);
    assert_eq!(
        (
            data.query_instruction_format.as_str(),
            data.passage_instruction_format.as_str()
        ),
        ("{}{}", "{}{}")
    );
    assert_eq!(
        (
            training.learning_rate,
            training.num_train_epochs,
            training.max_steps
        ),
        (5e-5, 3.0, -1)
    );
    assert_eq!(
        (training.adam_beta1, training.adam_beta2, training.adam_epsilon),
        (0.9, 0.999, 1e-8)
    );
    assert_eq!(
        (training.logging_steps, training.save_steps, training.seed),
        (500.0, 500.0, 42)
    );
    assert_eq!(
        (training.temperature, training.normalize_embeddings),
        (0.02, true)
    );
    assert_eq!(training.sentence_pooling_method, PoolingMethod::Cls);
    assert_eq!(training.kd_loss_type, KdLossType::KlDiv);
    assert_eq!(
        (training.save_strategy, training.eval_strategy),
        (SaveStrategy::Steps, IntervalStrategy::No)
    );
    assert_eq!(training.lr_scheduler_type, LrSchedulerType::Linear);
    assert_eq!((training.self_distill_start_step, training.colbert_dim), (-1, -1));
    let evaluate = EvaluateConfig::default();
    assert_eq!(evaluate.evaluate.k_values, [1, 3, 5, 10, 100, 1000]);
    assert_eq!(
        (
            evaluate.embed.batch_size,
            evaluate.embed.embedder_query_max_length
        ),
        (256, 512)
    );
}
