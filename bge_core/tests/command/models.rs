//! Damaged and foreign models, tokenizers and checkpoints.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::case::{Case, copy, finetune, fixture, words};

fn write(at: &Path, name: &str, content: &str) {
    let path = at.join("model").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Training and encoding with a damaged model; both must say the same things.
fn model(name: &str, says: &[&str], damage: impl Fn(&Path) + Send + Sync + Clone + 'static) -> [Case; 2] {
    let says = [&["model"], says].concat();
    let encode = words(&[
        "encode",
        "--embedder_name_or_path",
        "model",
        "--input_file",
        "data.jsonl",
        "--output_file",
        "out.npy",
    ]);
    [
        Case::new(
            &format!("{name}, training"),
            finetune(&[]),
            1,
            &says,
            damage.clone(),
        ),
        Case::new(&format!("{name}, encoding"), encode, 1, &says, damage),
    ]
}

/// A change of `config.json`.
fn config(name: &str, says: &[&str], change: fn(&mut Value)) -> [Case; 2] {
    model(name, &[&["config.json"], says].concat(), move |at: &Path| {
        let path = at.join("model/config.json");
        let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
    })
}

/// Name, shape and bytes of a tensor.
type Tensor = (String, Vec<usize>, Vec<u8>);

/// A change of the list of tensors.
fn tensors(name: &str, says: &[&str], change: fn(&mut Vec<Tensor>)) -> [Case; 2] {
    model(name, says, move |at: &Path| {
        let path = at.join("model/model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
        let mut list = Vec::new();
        for (name, entry) in header.as_object().unwrap() {
            if name != "__metadata__" {
                let at = |i: usize| 8 + len + entry["data_offsets"][i].as_u64().unwrap() as usize;
                let shape = serde_json::from_value(entry["shape"].clone()).unwrap();
                list.push((name.clone(), shape, bytes[at(0)..at(1)].to_vec()));
            }
        }
        change(&mut list);
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, shape, bytes) in list {
            let start = data.len();
            data.extend(bytes);
            let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(name, entry);
        }
        let header = serde_json::to_vec(&header).unwrap();
        let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
        fs::write(path, file).unwrap();
    })
}

fn cut(at: &Path, name: &str, keep: usize) {
    let path = at.join("model").join(name);
    let bytes = fs::read(&path).unwrap();
    fs::write(path, &bytes[..keep]).unwrap();
}

fn remove(at: &Path, name: &str) {
    fs::remove_file(at.join("model").join(name)).unwrap();
}

pub(crate) fn cases() -> Vec<Case> {
    let pairs = [
        model("no such folder", &["no folder `model`", "hf download"], |at| {
            fs::remove_dir_all(at.join("model")).unwrap();
        }),
        model("a file instead of a folder", &["file"], |at| {
            fs::remove_dir_all(at.join("model")).unwrap();
            fs::write(at.join("model"), "x").unwrap();
        }),
        model("no config.json", &["config.json"], |at| remove(at, "config.json")),
        model("config.json is no JSON", &["config.json", "JSON"], |at| {
            write(at, "config.json", "{");
        }),
        config("a missing size", &["hidden_size"], |value| {
            value.as_object_mut().unwrap().remove("hidden_size");
        }),
        config("no model type", &["model_type"], |value| {
            value.as_object_mut().unwrap().remove("model_type");
        }),
        config("another model type", &["model_type", "qwen2", "bert"], |value| {
            value["model_type"] = "qwen2".into();
        }),
        config(
            "relative positions",
            &["position_embedding_type", "absolute"],
            |value| {
                value["position_embedding_type"] = "relative_key".into();
            },
        ),
        config("an unknown activation", &["hidden_act", "gelu"], |value| {
            value["hidden_act"] = "swish".into();
        }),
        config("heads that do not divide", &["num_attention_heads"], |value| {
            value["num_attention_heads"] = 5.into();
        }),
        config("a dropout of 2", &["hidden_dropout_prob"], |value| {
            value["hidden_dropout_prob"] = 2.into();
        }),
        config("a size of 0", &["vocab_size"], |value| {
            value["vocab_size"] = 0.into();
        }),
        config("a negative size", &["wrong type"], |value| {
            value["num_hidden_layers"] = (-1).into();
        }),
        model("no weights", &["no model.safetensors"], |at| {
            remove(at, "model.safetensors");
        }),
        model("cut weights", &["model.safetensors", "cut"], |at| {
            cut(at, "model.safetensors", 50_000);
        }),
        model("empty weights", &["model.safetensors"], |at| {
            cut(at, "model.safetensors", 0);
        }),
        model("a header beyond the file", &["model.safetensors"], |at| {
            let path = at.join("model/model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
            fs::write(path, bytes).unwrap();
        }),
        model("only a pickle", &["pytorch_model.bin", "safetensors"], |at| {
            fs::rename(
                at.join("model/model.safetensors"),
                at.join("model/pytorch_model.bin"),
            )
            .unwrap();
        }),
        model("a LoRA adapter", &["LoRA", "merged"], |at| {
            fs::rename(
                at.join("model/model.safetensors"),
                at.join("model/adapter_model.safetensors"),
            )
            .unwrap();
        }),
        model("a shard that is missing", &["model-00002"], |at| {
            remove(at, "model.safetensors");
            write(
                at,
                "model.safetensors.index.json",
                "{\"weight_map\": {\"a\": \"model-00002-of-00002.safetensors\"}}",
            );
        }),
        model(
            "a shard outside the folder",
            &["index.json", "plain file name"],
            |at| {
                remove(at, "model.safetensors");
                write(
                    at,
                    "model.safetensors.index.json",
                    "{\"weight_map\": {\"a\": \"../secret.safetensors\"}}",
                );
            },
        ),
        tensors(
            "a tensor too few",
            &["encoder.layer.1.output.dense.bias"],
            |list| {
                list.retain(|(name, ..)| name != "encoder.layer.1.output.dense.bias");
            },
        ),
        tensors(
            "a layer too many",
            &["encoder.layer.2.output.dense.bias", "config.json"],
            |list| {
                let mut extra = list[0].clone();
                "encoder.layer.2.output.dense.bias".clone_into(&mut extra.0);
                list.push(extra);
            },
        ),
        tensors(
            "another shape",
            &["encoder.layer.0.attention.self.query.weight", "shape"],
            |list| {
                let tensor = list
                    .iter_mut()
                    .find(|(name, ..)| name.ends_with("0.attention.self.query.weight"))
                    .unwrap();
                tensor.1 = vec![16, 64];
            },
        ),
        tensors("weights of NaN", &["embeddings.LayerNorm.bias", "NaN"], |list| {
            let tensor = list
                .iter_mut()
                .find(|(name, ..)| name == "embeddings.LayerNorm.bias")
                .unwrap();
            tensor.2[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
        }),
        tensors("no encoder at all", &["word_embeddings"], |list| {
            list.retain(|(name, ..)| name.starts_with("pooler"));
        }),
        model("no tokenizer", &["tokenizer.json", "base model"], |at| {
            remove(at, "tokenizer.json");
            remove(at, "tokenizer_config.json");
        }),
        model("a broken tokenizer", &["tokenizer.json"], |at| {
            cut(at, "tokenizer.json", 300);
        }),
        model("a tokenizer of other JSON", &["tokenizer.json"], |at| {
            write(at, "tokenizer.json", "{\"a\": 1}");
        }),
        model(
            "a tokenizer larger than the model",
            &["tokens", "belong together"],
            |at| {
                let from = fixture("models/xlmr/tokenizer.json");
                fs::copy(from, at.join("model/tokenizer.json"))
                    .map(|_| ())
                    .unwrap();
            },
        ),
        model("modules.json is no JSON", &["modules.json", "JSON"], |at| {
            write(at, "modules.json", "[");
        }),
        model("modules.json is no list", &["modules.json", "list"], |at| {
            write(at, "modules.json", "{}");
        }),
        model(
            "an unsupported module",
            &["modules.json", "Dense", "Pooling"],
            |at| {
                write(
                    at,
                    "modules.json",
                    "[{\"idx\": 0, \"type\": \"sentence_transformers.models.Dense\", \"path\": \"2_Dense\"}]",
                );
            },
        ),
        model("a pooling without its file", &["1_Pooling", "missing"], |at| {
            write(
                at,
                "modules.json",
                "[{\"idx\": 1, \"type\": \"sentence_transformers.models.Pooling\", \"path\": \"1_Pooling\"}]",
            );
        }),
        model("a broken pooling", &["1_Pooling", "JSON"], |at| {
            write(
                at,
                "modules.json",
                "[{\"idx\": 1, \"type\": \"sentence_transformers.models.Pooling\", \"path\": \"1_Pooling\"}]",
            );
            write(at, "1_Pooling/config.json", "{");
        }),
        model("an unsupported pooling", &["1_Pooling", "max", "cls"], |at| {
            write(
                at,
                "modules.json",
                "[{\"idx\": 1, \"type\": \"sentence_transformers.models.Pooling\", \"path\": \"1_Pooling\"}]",
            );
            write(at, "1_Pooling/config.json", "{\"pooling_mode_max_tokens\": true}");
        }),
    ];
    let mut cases: Vec<Case> = pairs.into_iter().flatten().collect();
    cases.extend([
        Case::new(
            "resume from the newest of nothing",
            finetune(&["--resume_from_checkpoint", "True"]),
            1,
            &["out", "--resume_from_checkpoint"],
            |_| {},
        ),
        Case::new(
            "resume from no folder",
            finetune(&["--resume_from_checkpoint", "gone"]),
            1,
            &["gone", "resume_from_checkpoint"],
            |_| {},
        ),
        Case::new(
            "resume from a model",
            finetune(&["--resume_from_checkpoint", "model"]),
            1,
            &["model", "trainer_state.json"],
            |_| {},
        ),
        Case::new(
            "a broken state",
            finetune(&["--resume_from_checkpoint", "at"]),
            1,
            &["trainer_state.json", "older checkpoint"],
            |at| {
                copy(&at.join("model"), &at.join("at"));
                fs::write(at.join("at/trainer_state.json"), "{\"global_step\": \"two\"}").unwrap();
            },
        ),
        Case::new(
            "a checkpoint of Hugging Face",
            finetune(&["--resume_from_checkpoint", "at"]),
            1,
            &["pickle", "--model_name_or_path"],
            |at| {
                copy(&at.join("model"), &at.join("at"));
                fs::write(
                    at.join("at/trainer_state.json"),
                    "{\"global_step\": 2, \"log_history\": []}",
                )
                .unwrap();
                fs::write(at.join("at/optimizer.pt"), "x").unwrap();
            },
        ),
    ]);
    cases
}
