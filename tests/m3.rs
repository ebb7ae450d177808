//! BGE-M3's three heads do what FlagEmbedding's do, number by number (`fixtures/m3/make_m3_fixtures.py`).

use std::collections::BTreeMap;
use std::path::Path;

use bge_core::config::{FinetuneConfig, TrainingArguments};
use bge_core::models::{M3, ModelFolder};
use bge_core::random::Draws;
use bge_core::tokenize::{TokenBatch, Tokenizer};
use bge_core::train::{Stepper, TrainBatch};
use bge_tests::{fixture, json, largest_difference, random_batch, weights};
use candle_core::Device;
use serde_json::Value;

/// Relative difference allowed for loss and gradient norm: the issue's own bound.
const RELATIVE: f64 = 5e-4;
/// Relative difference allowed for the gradients of one step, against the largest element of each weight.
const GRADIENT: f32 = 2e-4;

fn numbers<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn model(name: &str) -> (M3, Vec<u32>) {
    let folder = ModelFolder::open(&fixture("m3/models").join(name)).unwrap();
    let special = Tokenizer::open(&folder.path)
        .unwrap()
        .special_tokens()
        .without_words();
    assert_eq!(special.len(), 4);
    (M3::open(&folder).unwrap(), special)
}

/// The settings of a case; `extra` flags are added.
fn arguments(case: &Value, extra: &[&str]) -> TrainingArguments {
    let mut words: Vec<String> = [
        "--model_name_or_path",
        "m",
        "--train_data",
        "d",
        "--output_dir",
        "o",
        "--lr_scheduler_type",
        "constant",
    ]
    .map(str::to_owned)
    .into();
    for (name, value) in case["flags"].as_object().unwrap() {
        if name != "no_in_batch_neg" && name != "knowledge_distillation" {
            words.push(format!("--{name}"));
            words.push(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
    }
    for name in ["learning_rate", "max_grad_norm"] {
        words.extend([format!("--{name}"), case[name].to_string()]);
    }
    words.extend(extra.iter().map(|&word| word.to_owned()));
    let parsed =
        bge_core::config::Loader::<FinetuneConfig>::for_module(bge_core::config::Module::EncoderOnlyM3)
            .flags(&words)
            .finish()
            .unwrap();
    parsed
        .arguments
        .check_for(bge_core::config::Module::EncoderOnlyM3)
        .unwrap()
        .training
        .clone()
}

fn batch(case: &Value, micro: &Value) -> TrainBatch {
    let rows = |side: &str| TokenBatch::from_rows(&numbers::<Vec<Vec<u32>>>(&micro[side])).unwrap();
    TrainBatch {
        queries: rows("queries"),
        passages: rows("passages"),
        no_in_batch_neg: case["flags"]["no_in_batch_neg"].as_bool().unwrap_or(false),
        teacher_scores: numbers(&micro["teacher_scores"]),
    }
}

fn check(name: &str, extra: &[&str]) {
    let case = json(&fixture("m3/cases").join(format!("{name}.json")));
    let steps = case["steps"].as_array().unwrap();
    let (model, special) = model(case["model"].as_str().unwrap());
    let before = weights(model.encoder());
    let mut stepper = Stepper::m3(model, &arguments(&case, extra), steps.len(), special).unwrap();
    for (index, step) in steps.iter().enumerate() {
        let batches: Vec<TrainBatch> = step["micro_batches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|micro| batch(&case, micro))
            .collect();
        let report = stepper.step(&batches).unwrap();
        for (what, got) in [("loss", report.loss), ("grad_norm", report.grad_norm)] {
            let want = step[what].as_f64().unwrap();
            let difference = (got - want).abs() / want.abs();
            assert!(
                difference < RELATIVE,
                "{name} {extra:?}, step {index}: {what} is {got}, upstream's {want}"
            );
        }
        let gradients = fixture("m3/cases").join(format!("{name}.safetensors"));
        if index == 0 && gradients.exists() {
            compare_gradients(name, &stepper, &gradients);
        }
    }
    let after = weights(stepper.model());
    for (weight, norm) in case["update_norms"].as_object().unwrap() {
        let moved = before[weight]
            .iter()
            .zip(&after[weight])
            .map(|(a, b)| f64::from(b - a).powi(2));
        let (moved, want) = (moved.sum::<f64>().sqrt(), norm.as_f64().unwrap());
        assert!(
            (moved - want).abs() <= 5e-3 * want.max(1e-9),
            "{name}: {weight} moved by {moved}, upstream's by {want}"
        );
    }
    let trained = case["update_norms"].as_object().unwrap();
    for (weight, values) in &after {
        if !trained.contains_key(weight) && !weight.contains("key.bias") {
            assert_eq!(values, &before[weight], "{name}: {weight} moved");
        }
    }
}

fn compare_gradients(name: &str, stepper: &Stepper, file: &Path) {
    let mut want: BTreeMap<String, _> = candle_core::safetensors::load(file, &Device::Cpu)
        .unwrap()
        .into_iter()
        .collect();
    for (id, (weight, _, _)) in stepper.model().params().iter().enumerate() {
        let Some(want) = want.remove(weight) else {
            assert!(weight.starts_with("pooler."), "{name}: {weight} has no reference");
            continue;
        };
        let want: Vec<f32> = want.flatten_all().unwrap().to_vec1().unwrap();
        let got = stepper
            .gradients()
            .to_vec(id)
            .unwrap()
            .unwrap_or_else(|| panic!("{name}: {weight} has no gradient"));
        let size = want.iter().fold(1.0_f32, |size, x| size.max(x.abs()));
        let difference = largest_difference(&got, &want) / size;
        assert!(
            difference < GRADIENT,
            "{name}: the gradient of {weight} differs by {difference}"
        );
    }
    assert!(want.is_empty(), "{name}: not ours: {:?}", want.keys());
}

fn cases() -> Vec<String> {
    numbers(&json(&fixture("m3/cases.json"))["cases"])
}

#[test]
fn every_case_trains_as_flagembedding_does() {
    let cases = cases();
    assert!(cases.len() >= 13);
    for name in cases {
        check(&name, &[]);
    }
}

#[test]
fn sub_batches_and_checkpointing_train_as_the_whole_batch_does() {
    for name in [
        "unified_kl",
        "self_distill_later",
        "narrow_mean_raw",
        "own_groups",
    ] {
        for size in ["1", "4", "100"] {
            check(name, &["--sub_batch_size", size]);
        }
        check(name, &["--gradient_checkpointing", "True"]);
        check(
            name,
            &["--sub_batch_size", "5", "--gradient_checkpointing", "True"],
        );
    }
}

#[test]
fn sub_batches_see_the_same_dropout() {
    let folder = fixture("m3/models/m3");
    let opened = || {
        let mut folder = ModelFolder::open(&folder).unwrap();
        folder.config.hidden_dropout_prob = 0.2;
        folder.config.attention_probs_dropout_prob = 0.2;
        M3::open(&folder).unwrap()
    };
    let case = json(&fixture("m3/cases/unified.json"));
    let vocab = opened().config().vocab_size;
    let batch = [random_batch(vocab, 4, 3, 9)];
    let run = |extra: &[&str]| {
        let mut stepper = Stepper::m3(opened(), &arguments(&case, extra), 5, vec![0, 1, 2, 3]).unwrap();
        let report = stepper.step(&batch).unwrap();
        (report.loss, report.grad_norm)
    };
    let whole = run(&[]);
    for size in ["1", "3", "7"] {
        let (loss, norm) = run(&["--sub_batch_size", size]);
        assert!(((loss - whole.0) / whole.0).abs() < 1e-6);
        assert!(((norm - whole.1) / whole.1).abs() < 1e-5);
    }
    let without = Stepper::m3(
        M3::open(&ModelFolder::open(&folder).unwrap()).unwrap(),
        &arguments(&case, &[]),
        5,
        vec![0, 1, 2, 3],
    )
    .unwrap()
    .step(&batch)
    .unwrap();
    assert!((without.loss - whole.0).abs() > 1e-3, "dropout has no effect");
}

#[test]
fn gradients_of_all_heads_agree_with_finite_differences() {
    let case = json(&fixture("m3/cases/self_distill.json"));
    let (model, special) = model("m3");
    let vocab = model.config().vocab_size;
    // Heads far from the borders of their ReLU and of the nearest tokens would hide an error; a small step crosses few.
    let batch = [random_batch(vocab, 3, 2, 4)];
    let arguments = arguments(&case, &["--learning_rate", "0", "--use_self_distill", "False"]);
    let mut stepper = Stepper::m3(model.clone(), &arguments, 1, special.clone()).unwrap();
    stepper.step(&batch).unwrap();
    let loss_with = |weight: &str, at: usize, by: f32| {
        let mut changed: BTreeMap<String, candle_core::Tensor> = model
            .params()
            .iter()
            .map(|(name, value, _)| (name.to_owned(), value.copy().unwrap()))
            .collect();
        let value = &changed[weight];
        let mut flat: Vec<f32> = value.flatten_all().unwrap().to_vec1().unwrap();
        flat[at] += by;
        let value = candle_core::Tensor::from_vec(flat, value.shape().clone(), &Device::Cpu).unwrap();
        changed.insert(weight.to_owned(), value);
        let model = M3::new(model.config().clone(), changed).unwrap();
        Stepper::m3(model, &arguments, 1, special.clone())
            .unwrap()
            .step(&batch)
            .unwrap()
            .loss
    };
    let mut draws = Draws::new(5);
    for (id, (weight, value, _)) in model.params().iter().enumerate() {
        let heads = weight.contains("linear");
        if !heads && !weight.contains("layer.1.output.dense") {
            continue;
        }
        let gradient = stepper.gradients().to_vec(id).unwrap().unwrap();
        for _ in 0..4 {
            let at = draws.below(value.elem_count());
            let step = 2e-3;
            let slope = (loss_with(weight, at, step) - loss_with(weight, at, -step)) / f64::from(2.0 * step);
            assert!(
                (slope - f64::from(gradient[at])).abs() < 2e-2 * slope.abs().max(0.5),
                "{weight}[{at}]: {slope} against {}",
                gradient[at]
            );
        }
    }
}

mod inference {
    use std::fs;

    use bge_core::config::{EmbedArguments, FinetuneConfig, Loader, Module, RerankArguments};
    use bge_core::distillation::open_teacher;
    use bge_core::inference::{
        LexicalWeights, M3Embedder, M3Outputs, ModeWeights, colbert_score, lexical_matching_score,
    };
    use bge_core::train::Trainer;
    use bge_core::{Error, ErrorKind};
    use bge_tests::{bits, copy, fixture, json, largest_difference};
    use serde_json::Value;

    use super::numbers;

    /// Absolute difference allowed for vectors, weights and scores of tiny models.
    const VECTORS: f32 = 2e-5;

    fn arguments() -> EmbedArguments {
        EmbedArguments {
            embedder_query_max_length: 16,
            embedder_passage_max_length: 40,
            ..EmbedArguments::default()
        }
    }

    fn open(name: &str) -> M3Embedder {
        M3Embedder::from_finetuned(fixture("m3/models").join(name), &arguments()).unwrap()
    }

    fn weights_of(value: &Value) -> LexicalWeights {
        let entries = value.as_object().unwrap().iter();
        entries
            .map(|(id, weight)| (id.parse().unwrap(), weight.as_f64().unwrap() as f32))
            .collect()
    }

    #[test]
    fn vectors_weights_and_scores_are_those_of_bgem3flagmodel() {
        let golden = json(&fixture("m3/inference.json"));
        for name in ["m3", "m3_narrow"] {
            let (golden, model) = (&golden[name], open(name));
            let texts: Vec<String> = numbers(&golden["texts"]);
            let got = model.encode_corpus(&texts, M3Outputs::ALL).unwrap();
            let (dense, lexical, colbert) = (
                got.dense_vecs.unwrap(),
                got.lexical_weights.unwrap(),
                got.colbert_vecs.unwrap(),
            );
            for (text, row) in dense.rows().enumerate() {
                let want: Vec<f32> = numbers(&golden["dense_vecs"][text]);
                assert!(largest_difference(row, &want) < VECTORS);
                let want = weights_of(&golden["lexical_weights"][text]);
                assert!(
                    lexical[text].keys().eq(want.keys()),
                    "{name}: other tokens than upstream's in text {text}"
                );
                let (a, b): (Vec<f32>, Vec<f32>) = lexical[text]
                    .values()
                    .zip(want.values())
                    .map(|(a, b)| (*a, *b))
                    .unzip();
                assert!(largest_difference(&a, &b) < VECTORS);
                let tokens = golden["tokens"][text].as_object().unwrap();
                for (token, weight) in model.tokens_of(&lexical[text]) {
                    let shown = token.trim_start_matches('▁');
                    let known = tokens.iter().any(|(name, value)| {
                        name.trim() == shown && (value.as_f64().unwrap() as f32 - weight).abs() < VECTORS
                    });
                    assert!(
                        known || shown.is_empty() || tokens.contains_key(shown),
                        "{token} {weight}"
                    );
                }
                let want: Vec<Vec<f32>> = numbers(&golden["colbert_vecs"][text]);
                assert_eq!(colbert[text].len(), want.len(), "{name}: tokens of text {text}");
                for (row, want) in colbert[text].rows().zip(&want) {
                    assert!(largest_difference(row, want) < VECTORS);
                }
            }
            for a in 0..texts.len() {
                for b in 0..texts.len() {
                    let want = golden["matching"][a][b].as_f64().unwrap() as f32;
                    let got = lexical_matching_score(&lexical[a], &lexical[b]);
                    assert!((got - want).abs() < VECTORS, "{got} {want}");
                    let want = golden["colbert_scores"][a][b].as_f64().unwrap() as f32;
                    let got = colbert_score(&colbert[a], &colbert[b]);
                    assert!((got - want).abs() < VECTORS, "{got} {want}");
                }
            }
            let pairs: Vec<(String, String)> = numbers(&golden["pairs"]);
            let [d, s, c]: [f32; 3] = numbers(&golden["weights"]);
            let weights = ModeWeights {
                dense: d,
                sparse: s,
                colbert: c,
            };
            for (at, scores) in model.compute_score(&pairs).unwrap().iter().enumerate() {
                for (mode, got) in [
                    ("dense", scores.dense),
                    ("sparse", scores.sparse),
                    ("colbert", scores.colbert),
                    ("sparse+dense", scores.sparse_dense(weights)),
                    ("colbert+sparse+dense", scores.colbert_sparse_dense(weights)),
                ] {
                    let want = golden["scores"][mode][at].as_f64().unwrap() as f32;
                    assert!((got - want).abs() < VECTORS, "{name} {mode} {at}: {got} {want}");
                }
            }
        }
    }

    #[test]
    fn a_text_has_the_same_bits_in_any_company() {
        let golden = json(&fixture("m3/inference.json"));
        let texts: Vec<String> = numbers(&golden["m3"]["texts"]);
        let model = open("m3");
        let all = model.encode_corpus(&texts, M3Outputs::ALL).unwrap();
        for (at, text) in texts.iter().enumerate() {
            let alone = model.encode_corpus(&[text], M3Outputs::ALL).unwrap();
            assert_eq!(
                alone.dense_vecs.unwrap().row(0),
                all.dense_vecs.as_ref().unwrap().row(at)
            );
            assert_eq!(
                alone.lexical_weights.unwrap()[0],
                all.lexical_weights.as_ref().unwrap()[at]
            );
            assert_eq!(
                alone.colbert_vecs.unwrap()[0],
                all.colbert_vecs.as_ref().unwrap()[at]
            );
        }
        let none = model.encode_corpus::<&str>(&[], M3Outputs::ALL).unwrap();
        assert!(none.dense_vecs.unwrap().is_empty() && none.colbert_vecs.unwrap().is_empty());
        assert!(model.compute_score::<&str>(&[]).unwrap().is_empty());
    }

    #[test]
    fn all_heads_together_are_a_teacher() {
        let golden = json(&fixture("m3/inference.json"));
        let pairs: Vec<(String, String)> = numbers(&golden["m3"]["pairs"]);
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(q, p)| (q.as_str(), p.as_str())).collect();
        let arguments = RerankArguments {
            m3: true,
            weights_for_different_modes: numbers(&golden["m3"]["weights"]),
            reranker_query_max_length: Some(16),
            reranker_max_length: 40,
            ..RerankArguments::default()
        };
        let opened = open_teacher(fixture("m3/models/m3"), &arguments).unwrap();
        assert_eq!(opened.class, "encoder-only-m3");
        let got = opened.teacher.scores(&pairs, &mut |_| {}).unwrap();
        let want: Vec<f32> = numbers(&golden["m3"]["scores"]["colbert+sparse+dense"]);
        assert!(largest_difference(&got, &want) < VECTORS);
    }

    fn heads_of(folder: &std::path::Path) -> M3Embedder {
        M3Embedder::from_finetuned(folder, &arguments()).unwrap()
    }

    fn config(words: &[String]) -> bge_core::config::CheckedConfig {
        let parsed = Loader::<FinetuneConfig>::for_module(Module::EncoderOnlyM3)
            .flags(words)
            .finish()
            .unwrap();
        parsed.arguments.check_for(Module::EncoderOnlyM3).unwrap()
    }

    fn words(model: &std::path::Path, output: &std::path::Path, extra: &str) -> Vec<String> {
        let line = format!(
            "--model_name_or_path {} --output_dir {} --train_data {} --per_device_train_batch_size 4 --train_group_size 3 \
             --query_max_len 16 --passage_max_len 40 --learning_rate 1e-3 --max_steps 5 --save_steps 2 --logging_steps 1 {extra}",
            model.display(),
            output.display(),
            fixture("parity/data/foreign_scored.jsonl").display()
        );
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn self_distillation_begins_after_as_many_batches_as_were_really_seen() {
        let folder = tempfile::tempdir().unwrap();
        let losses = |start: i64| {
            // Of 24 rows an epoch has five batches, and so its third step only one.
            let flags = format!(
                "--unified_finetuning True --use_self_distill True --self_distill_start_step {start} --save_strategy no \
                 --gradient_accumulation_steps 2 --per_device_train_batch_size 5"
            );
            let output = folder.path().join(start.to_string());
            let words = words(&fixture("m3/models/m3"), &output, &flags);
            let mut trainer = Trainer::new(config(&words)).unwrap();
            assert_eq!(trainer.dataset().len(), 24);
            let state = trainer.run(&mut []).unwrap().state;
            let losses = state
                .log_history
                .iter()
                .filter_map(|entry| entry.get("loss")?.as_f64());
            losses.collect::<Vec<f64>>()
        };
        // The fourth step has the batches 5 and 6.
        let never = losses(1000);
        assert_eq!(losses(6)[..4], never[..4]);
        assert_ne!(losses(5)[3], never[3]);
    }

    #[test]
    fn a_whole_run_saves_heads_that_open_again_and_resumes_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let model = fixture("m3/models/m3");
        let flags = "--unified_finetuning True --use_self_distill True --self_distill_start_step 1 \
                     --knowledge_distillation True --gradient_accumulation_steps 2";
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        Trainer::new(config(&words(&model, &whole, flags)))
            .unwrap()
            .run(&mut [])
            .unwrap();
        for file in [
            "sparse_linear.pt",
            "colbert_linear.pt",
            "sparse_linear.safetensors",
            "colbert_linear.safetensors",
        ] {
            assert!(
                whole.join(file).is_file() && whole.join("checkpoint-2").join(file).is_file(),
                "{file}"
            );
        }
        let trained = heads_of(&whole);
        let before = heads_of(&model);
        let encode = |model: &M3Embedder| model.encode_corpus(&["Apple and bread"], M3Outputs::ALL).unwrap();
        assert_ne!(encode(&trained).lexical_weights, encode(&before).lexical_weights);

        bge_tests::copy(&whole.join("checkpoint-2"), &parts.join("checkpoint-2"));
        let resumed = words(&model, &parts, &format!("{flags} --resume_from_checkpoint True"));
        Trainer::new(config(&resumed)).unwrap().run(&mut []).unwrap();
        for file in ["model.safetensors", "sparse_linear.pt", "colbert_linear.pt"] {
            assert_eq!(
                fs::read(whole.join(file)).unwrap(),
                fs::read(parts.join(file)).unwrap(),
                "{file} after resuming"
            );
        }

        // Upstream drops the heads here; we keep those that the folder had.
        let dense = folder.path().join("dense");
        Trainer::new(config(&words(&whole, &dense, "")))
            .unwrap()
            .run(&mut [])
            .unwrap();
        for file in ["sparse_linear.pt", "colbert_linear.pt"] {
            assert_eq!(
                fs::read(whole.join(file)).unwrap(),
                fs::read(dense.join(file)).unwrap()
            );
        }
        // Safetensors alone are enough.
        for file in ["sparse_linear.pt", "colbert_linear.pt"] {
            fs::remove_file(dense.join(file)).unwrap();
        }
        let again = M3Embedder::from_finetuned(&dense, &arguments()).unwrap();
        assert!(again.encode_corpus(&["Apple"], M3Outputs::ALL).is_ok());
    }

    #[test]
    fn missing_heads_start_anew_from_the_seed_and_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        copy(&fixture("m3/models/m3"), &base);
        fs::remove_file(base.join("colbert_linear.pt")).unwrap();
        let run = |name: &str, extra: &str| {
            let output = folder.path().join(name);
            let flags = format!("--unified_finetuning True --colbert_dim 8 {extra}");
            let mut trainer = Trainer::new(config(&words(&base, &output, &flags))).unwrap();
            let notes: Vec<String> = trainer.notes().iter().map(ToString::to_string).collect();
            assert!(
                notes.iter().any(|note| note.contains("colbert_linear"))
                    && !notes.iter().any(|note| note.contains("sparse_linear")),
                "{notes:?}"
            );
            trainer.run(&mut []).unwrap();
            fs::read(output.join("colbert_linear.safetensors")).unwrap()
        };
        let first = run("a", "");
        assert_eq!(first, run("b", ""));
        assert_ne!(first, run("c", "--seed 5"));
        let dim = heads_of(&folder.path().join("a"))
            .encode_corpus(&["Apple"], M3Outputs::ALL)
            .unwrap();
        assert_eq!(dim.colbert_vecs.unwrap()[0].dim, 8);

        let lacking = M3Embedder::from_finetuned(&base, &arguments()).unwrap();
        let error = lacking.encode_corpus(&["Apple"], M3Outputs::ALL).unwrap_err();
        assert_eq!(error.field(), Some("return_colbert_vecs"));
        let other = words(
            &fixture("m3/models/m3"),
            &folder.path().join("d"),
            "--unified_finetuning True --colbert_dim 8",
        );
        let error = Trainer::new(config(&other)).unwrap_err();
        assert_eq!(
            (error.kind(), error.field()),
            (ErrorKind::InvalidConfig, Some("colbert_dim"))
        );
    }

    #[test]
    fn a_fixed_encoder_stays_and_the_heads_move() {
        let folder = tempfile::tempdir().unwrap();
        let (model, output) = (fixture("m3/models/m3"), folder.path().join("fixed"));
        let flags = "--unified_finetuning True --fix_encoder True";
        Trainer::new(config(&words(&model, &output, flags)))
            .unwrap()
            .run(&mut [])
            .unwrap();
        assert_eq!(
            bits(&bge_tests::open_model(&model)),
            bits(&bge_tests::open_model(&output))
        );
        assert_ne!(
            fs::read(model.join("sparse_linear.pt")).unwrap(),
            fs::read(output.join("sparse_linear.pt")).unwrap()
        );
    }

    #[test]
    fn bad_head_files_are_one_error_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let whole = fs::read(fixture("m3/models/m3/sparse_linear.pt")).unwrap();
        let colbert = fs::read(fixture("m3/models/m3/colbert_linear.pt")).unwrap();
        let cases: [(&str, Vec<u8>, &str); 5] = [
            ("empty", Vec::new(), "zip archive"),
            ("cut", whole[..whole.len() / 2].to_vec(), "zip archive"),
            ("text", b"not a pickle".to_vec(), "zip archive"),
            ("other head", colbert, "shape"),
            ("half", whole[whole.len() / 3..].to_vec(), ""),
        ];
        for (name, bytes, expected) in cases {
            let base = folder.path().join(name);
            copy(&fixture("m3/models/m3"), &base);
            fs::write(base.join("sparse_linear.pt"), bytes).unwrap();
            let error: Error = M3Embedder::from_finetuned(&base, &arguments()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ModelFormat, "{name}: {error}");
            assert!(error.to_string().contains(expected), "{name}: {error}");
            assert!(error.path().is_some(), "{name}");
        }
        let base = folder.path().join("safetensors");
        copy(&fixture("m3/models/m3"), &base);
        fs::remove_file(base.join("sparse_linear.pt")).unwrap();
        fs::write(base.join("sparse_linear.safetensors"), b"{}").unwrap();
        assert!(M3Embedder::from_finetuned(&base, &arguments()).is_err());
    }
}
