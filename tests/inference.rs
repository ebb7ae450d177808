//! From texts to vectors: the same bits in any company, and the folders that say how.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bge_core::config::{EmbedArguments, FinetuneConfig, PoolingMethod, TextRole};
use bge_core::inference::{Embedder, Vectors};
use bge_core::random::Draws;
use bge_core::tokenize::TokenBatch;
use bge_tests::{copy, fixture, json, largest_difference, network, train, weights};
use serde_json::{Value, json};

fn arguments() -> EmbedArguments {
    EmbedArguments {
        normalize_embeddings: false,
        ..EmbedArguments::default()
    }
}

fn embedder(name: &str) -> Embedder {
    let folder = fixture("parity/models").join(name);
    Embedder::from_finetuned(folder, &arguments()).unwrap()
}

/// Texts from 0 to about 200 words.
fn texts() -> Vec<String> {
    let words = [
        "ship", "sail", "bread", "oven", "branch", "apple", "snow", "ridge", "of", "the", "x9", "é",
    ];
    let mut draws = Draws::new(4);
    (0..60)
        .map(|i| {
            let count = [0, 1, 3, 9, 20, 33, 200][i % 7];
            let text: Vec<&str> = (0..count).map(|_| words[draws.below(words.len())]).collect();
            text.join(" ")
        })
        .collect()
}

fn rows(vectors: &Vectors) -> Vec<Vec<u32>> {
    let rows = vectors.rows();
    rows.map(|row| row.iter().map(|x| x.to_bits()).collect())
        .collect()
}

#[test]
fn a_text_has_the_same_bits_alone_in_any_batch_in_any_order_and_on_any_threads() {
    let texts = texts();
    for name in ["bert", "xlmr"] {
        let all = embedder(name);
        let want = rows(&all.encode(&texts).unwrap());
        assert_eq!(want.len(), texts.len());
        for (text, want) in texts.iter().zip(&want) {
            assert!(
                rows(&all.encode(&[text]).unwrap())[0] == *want,
                "{name}: {text:?} alone"
            );
        }
        for batch_size in [1, 2, 7, 1000] {
            let arguments = EmbedArguments {
                batch_size,
                ..arguments()
            };
            let one = Embedder::from_finetuned(fixture("parity/models").join(name), &arguments).unwrap();
            assert!(
                rows(&one.encode(&texts).unwrap()) == want,
                "{name}: batches of {batch_size}"
            );
        }
        let mut order: Vec<usize> = (0..texts.len()).collect();
        Draws::new(9).shuffle(&mut order);
        let shuffled: Vec<&String> = order.iter().map(|&i| &texts[i]).collect();
        for (row, &i) in rows(&all.encode(&shuffled).unwrap()).iter().zip(&order) {
            assert!(*row == want[i], "{name}: text {i} in another order");
        }
        for threads in [1, 2, 3, 5] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let got = pool.install(|| rows(&all.encode(&texts).unwrap()));
            assert!(got == want, "{name}: {threads} threads");
        }
        for groups in [2, 3, 100] {
            let mut done = Vec::new();
            let several = in_groups(name, groups);
            let tokens = several.tokenize(TextRole::None, &texts).unwrap();
            let got = several.encode_tokens(&tokens, |texts| done.push(texts)).unwrap();
            assert!(rows(&got) == want, "{name}: {groups} groups");
            assert!(
                done.is_sorted() && done.len() > 3 && done.last() == Some(&texts.len()),
                "{done:?}"
            );
        }
    }
}

/// An embedder whose groups of threads take a batch of four texts each.
fn in_groups(name: &str, groups: usize) -> Embedder {
    let arguments = EmbedArguments {
        batch_size: 4,
        devices: vec!["cpu".into(); groups],
        ..arguments()
    };
    Embedder::from_finetuned(fixture("parity/models").join(name), &arguments).unwrap()
}

#[test]
fn a_batch_that_fails_ends_every_group_with_its_error() {
    let embedder = in_groups("bert", 3);
    let mut texts: Vec<Vec<u32>> = (0..60).map(|text| vec![5; 1 + text % 9]).collect();
    texts[30] = vec![1 << 30; 5];
    let error = embedder
        .encode_tokens(&TokenBatch::from_rows(&texts).unwrap(), |_| {})
        .unwrap_err();
    assert!(
        error.to_string().contains("outside the model's vocabulary"),
        "{error}"
    );
}

#[test]
fn probes_have_flagembeddings_vectors() {
    let cases = json(&fixture("parity/cases.json"));
    for name in cases["cases"].as_array().unwrap() {
        let case = json(&fixture("parity/cases").join(format!("{}.json", name.as_str().unwrap())));
        let words: Vec<String> = serde_json::from_value(case["argv"].clone()).unwrap();
        let words = [words, vec!["--output_dir".to_owned(), "unused".to_owned()]].concat();
        let config = FinetuneConfig::from_flags(&words).unwrap().arguments;
        let arguments = EmbedArguments {
            pooling_method: Some(config.training.sentence_pooling_method),
            normalize_embeddings: config.training.normalize_embeddings,
            embedder_passage_max_length: config.data.passage_max_len,
            ..EmbedArguments::default()
        };
        let folder = fixture("parity").join(&config.model.model_name_or_path);
        let embedder = Embedder::from_finetuned(folder, &arguments).unwrap();
        let probes = case["probes"].as_array().unwrap();
        let texts: Vec<&str> = probes
            .iter()
            .map(|probe| probe["text"].as_str().unwrap())
            .collect();
        let want: Vec<Vec<f32>> = serde_json::from_value(case["vectors_before"].clone()).unwrap();
        let got = embedder.encode(&texts).unwrap();
        for (row, want) in got.rows().zip(&want) {
            let size = want.iter().fold(1.0_f32, |size, x| size.max(x.abs()));
            assert!(largest_difference(row, want) < 1e-5 * size, "{name}");
        }
    }
}

#[test]
fn shorter_vectors_are_cut_first_and_scaled_then() {
    let folder = fixture("parity/models/bert");
    let whole = embedder("bert").encode(&["ship", "bread"]).unwrap();
    for (dim, normalize_embeddings) in [(1, true), (12, true), (32, true), (12, false)] {
        let arguments = EmbedArguments {
            truncate_dim: Some(dim),
            normalize_embeddings,
            ..arguments()
        };
        let cut = Embedder::from_finetuned(&folder, &arguments).unwrap();
        assert_eq!(cut.dim(), dim);
        let got = cut.encode(&["ship", "bread"]).unwrap();
        for (row, whole) in got.rows().zip(whole.rows()) {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            let scale = if normalize_embeddings {
                assert!((length - 1.0).abs() < 1e-6);
                whole[..dim].iter().map(|x| x * x).sum::<f32>().sqrt()
            } else {
                1.0
            };
            let want: Vec<f32> = whole[..dim].iter().map(|x| x / scale).collect();
            assert!(largest_difference(row, &want) < 1e-6);
        }
    }
    for dim in [0, 33] {
        let arguments = EmbedArguments {
            truncate_dim: Some(dim),
            ..arguments()
        };
        let error = Embedder::from_finetuned(&folder, &arguments).unwrap_err();
        assert_eq!(error.field(), Some("truncate_dim"));
    }
}

#[test]
fn no_text_gives_no_vector_and_an_empty_text_gives_one() {
    for name in ["bert", "xlmr"] {
        let embedder = embedder(name);
        let none: [&str; 0] = [];
        for vectors in [
            embedder.encode(&none),
            embedder.encode_queries(&none),
            embedder.encode_corpus(&none),
        ] {
            let vectors = vectors.unwrap();
            assert!(vectors.is_empty() && vectors.rows().len() == 0);
            assert_eq!(vectors.dim, 32);
        }
        let some = embedder.encode(&["", " ", "\u{0}", "ship"]).unwrap();
        assert_eq!(some.len(), 4);
        assert!(some.data.iter().all(|x| x.is_finite()));
        assert_eq!(some.row(0) == some.row(1), name == "bert"); // a space is a token of XLM-R's
    }
}

#[test]
fn instructions_go_in_by_their_format_and_only_for_their_role() {
    let plain = embedder("bert");
    let folder = fixture("parity/models/bert");
    let asked = |format: Option<&str>| {
        let arguments = EmbedArguments {
            query_instruction_for_retrieval: Some("where of".to_owned()),
            query_instruction_format_for_retrieval: format.map(str::to_owned),
            passage_instruction_for_retrieval: Some("book".to_owned()),
            passage_instruction_format: Some("{} to {}".to_owned()),
            ..arguments()
        };
        Embedder::from_finetuned(&folder, &arguments).unwrap()
    };
    let same = |got: Vectors, text: &str| assert_eq!(got, plain.encode(&[text]).unwrap(), "{text}");
    same(asked(None).encode_queries(&["ship"]).unwrap(), "where ofship");
    same(
        asked(Some("{} {}")).encode_queries(&["ship"]).unwrap(),
        "where of ship",
    );
    same(
        asked(Some("{}: {} no")).encode_queries(&["ship"]).unwrap(),
        "where of: ship no",
    );
    same(asked(None).encode_corpus(&["ship"]).unwrap(), "book to ship");
    same(asked(None).encode(&["ship"]).unwrap(), "ship");
    let wrong = EmbedArguments {
        query_instruction_for_retrieval: Some("a".to_owned()),
        query_instruction_format_for_retrieval: Some("{}{}{}".to_owned()),
        ..arguments()
    };
    assert!(Embedder::from_finetuned(&folder, &wrong).is_err());
}

#[test]
fn a_fine_tuned_folder_has_every_file_and_says_how_its_vectors_are_made() {
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("out");
    let report = train(&[
        "--model_name_or_path",
        "models/xlmr",
        "--train_data",
        "data/foreign.jsonl",
        "--output_dir",
        &output.display().to_string(),
        "--train_group_size",
        "2",
        "--max_steps",
        "2",
        "--save_steps",
        "1",
        "--sentence_pooling_method",
        "mean",
        "--query_instruction_for_retrieval",
        "ask",
        "--query_instruction_format",
        "{}: {}",
        "--passage_instruction_for_retrieval",
        "doc ",
        "--learning_rate",
        "1e-3",
    ]);
    assert_eq!(report.folder, output);
    for folder in [output.clone(), output.join("checkpoint-1")] {
        for file in [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "modules.json",
            "1_Pooling/config.json",
            "config_sentence_transformers.json",
            "trainer_state.json",
            "config.toml",
        ] {
            assert!(folder.join(file).is_file(), "{} lacks {file}", folder.display());
        }
        for path in folder.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
            assert!(path.extension() != Some("part".as_ref()), "{}", path.display());
        }
    }
    let state = json(&output.join("trainer_state.json"));
    assert_eq!(
        (state["global_step"].clone(), state["max_steps"].clone()),
        (json!(2), json!(2))
    );
    let sentence = json(&output.join("config_sentence_transformers.json"));
    assert_eq!(
        sentence["prompts"],
        json!({"query": "ask: ", "passage": "doc ", "document": "doc "})
    );

    let tuned = Embedder::from_finetuned(&output, &EmbedArguments::default()).unwrap();
    let raw = EmbedArguments {
        pooling_method: Some(PoolingMethod::Mean),
        query_instruction_for_retrieval: Some("ask".to_owned()),
        query_instruction_format_for_retrieval: Some("{}: {}".to_owned()),
        passage_instruction_for_retrieval: Some("doc ".to_owned()),
        ..EmbedArguments::default()
    };
    let by_hand = Embedder::from_finetuned(&output, &raw).unwrap();
    assert!(tuned.notes().iter().any(|note| note.message.contains("ask: ")));
    assert_eq!(
        tuned.encode_queries(&["ship"]).unwrap(),
        by_hand.encode_queries(&["ship"]).unwrap()
    );
    assert_eq!(
        tuned.encode_corpus(&["ship"]).unwrap(),
        by_hand.encode_corpus(&["ship"]).unwrap()
    );
    assert_ne!(
        tuned.encode_queries(&["ship"]).unwrap(),
        tuned.encode(&["ship"]).unwrap()
    );
    let before = Embedder::from_finetuned(fixture("parity/models/xlmr"), &raw).unwrap();
    assert_ne!(
        before.encode(&["ship"]).unwrap(),
        tuned.encode(&["ship"]).unwrap()
    );
    // The whole loop again on what came out.
    let again = place.path().join("again");
    train(&[
        "--model_name_or_path",
        &output.display().to_string(),
        "--train_data",
        "data/foreign.jsonl",
        "--output_dir",
        &again.display().to_string(),
        "--train_group_size",
        "2",
        "--max_steps",
        "1",
    ]);
    assert!(again.join("model.safetensors").exists());
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn tensors(name: &str) -> Tensors {
    let model = network(name, 0.0);
    let values = weights(&model);
    let shapes = model
        .params()
        .iter()
        .map(|(name, value, _)| (name.to_owned(), value.dims().to_vec()));
    shapes
        .map(|(name, shape)| (name.clone(), (shape, values[&name].clone())))
        .collect()
}

/// Writes a safetensors file of `dtype`, whose numbers `bytes` encodes.
fn write(path: &Path, tensors: &Tensors, dtype: &str, bytes: fn(f32) -> Vec<u8>) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (shape, values)) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|&x| bytes(x)));
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    fs::write(
        path,
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat(),
    )
    .unwrap();
}

fn f32_bytes(x: f32) -> Vec<u8> {
    x.to_le_bytes().to_vec()
}

fn bf16_bytes(x: f32) -> Vec<u8> {
    ((x.to_bits() >> 16) as u16).to_le_bytes().to_vec()
}

/// Truncated to half precision; numbers too small for it become 0.
fn f16_bytes(x: f32) -> Vec<u8> {
    let bits = x.to_bits();
    let exponent = ((bits >> 23) & 0xff) as i32 - 127 + 15;
    let half = if exponent <= 0 {
        0
    } else {
        (exponent as u32) << 10 | (bits >> 13) & 0x3ff
    };
    ((half | (bits >> 16) & 0x8000) as u16).to_le_bytes().to_vec()
}

#[test]
fn weights_of_other_precisions_in_shards_and_under_older_names_are_read() {
    let probe = ["where ship sail", "bread"];
    for (name, prefix) in [("bert", "bert."), ("xlmr", "roberta.")] {
        let want = embedder(name).encode(&probe).unwrap();
        let original = tensors(name);
        let read = |what: &str, prepare: &dyn Fn(&Path)| {
            let place = tempfile::tempdir().unwrap();
            copy(&fixture("parity/models").join(name), place.path());
            fs::remove_file(place.path().join("model.safetensors")).unwrap();
            prepare(place.path());
            let opened = Embedder::from_finetuned(place.path(), &arguments());
            opened
                .unwrap_or_else(|error| panic!("{name}, {what}: {error}"))
                .encode(&probe)
                .unwrap()
        };
        let whole = |at: &Path| at.join("model.safetensors");
        let exact =
            |what: &str, prepare: &dyn Fn(&Path)| assert_eq!(read(what, prepare), want, "{name}, {what}");

        exact("f64", &|at| {
            write(&whole(at), &original, "F64", |x| {
                f64::from(x).to_le_bytes().to_vec()
            });
        });
        for (dtype, bytes, tolerance) in [
            ("BF16", bf16_bytes as fn(f32) -> Vec<u8>, 0.2),
            ("F16", f16_bytes, 0.02),
        ] {
            let got = read(dtype, &|at| write(&whole(at), &original, dtype, bytes));
            let difference = largest_difference(&got.data, &want.data);
            assert!(
                difference > 0.0 && difference < tolerance,
                "{name}, {dtype}: {difference}"
            );
        }

        exact("a task model", &|at| {
            let mut tensors: Tensors = original
                .iter()
                .map(|(name, t)| (format!("{prefix}{name}"), t.clone()))
                .collect();
            tensors.insert("cls.predictions.bias".to_owned(), (vec![2], vec![1.0, 2.0]));
            tensors.insert("classifier.dense.weight".to_owned(), (vec![1, 2], vec![1.0, 2.0]));
            write(&whole(at), &tensors, "F32", f32_bytes);
        });
        exact("gamma and beta", &|at| {
            let old = |name: &str| {
                name.replace("LayerNorm.weight", "LayerNorm.gamma")
                    .replace("LayerNorm.bias", "LayerNorm.beta")
            };
            let tensors: Tensors = original.iter().map(|(name, t)| (old(name), t.clone())).collect();
            assert!(tensors.keys().any(|name| name.ends_with("gamma")));
            write(&whole(at), &tensors, "F32", f32_bytes);
        });
        exact("shards", &|at| {
            let mut map = serde_json::Map::new();
            for shard in 0..3 {
                let part: Tensors = original
                    .iter()
                    .skip(shard)
                    .step_by(3)
                    .map(|(n, t)| (n.clone(), t.clone()))
                    .collect();
                let file = format!("model-{:05}-of-00003.safetensors", shard + 1);
                map.extend(part.keys().map(|name| (name.clone(), json!(file))));
                write(&at.join(file), &part, "F32", f32_bytes);
            }
            let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
            fs::write(at.join("model.safetensors.index.json"), index.to_string()).unwrap();
        });
        exact("without a pooler", &|at| {
            let mut tensors = original.clone();
            tensors.retain(|name, _| !name.starts_with("pooler."));
            write(&whole(at), &tensors, "F32", f32_bytes);
        });
    }
}
