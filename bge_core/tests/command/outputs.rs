//! Bad places for results, and bad input of `encode` and `evaluate`.

use std::fs;
use std::path::Path;

use crate::case::{Case, finetune, words};

fn encode(input: &str, output: &str) -> Vec<String> {
    words(&[
        "encode",
        "--embedder_name_or_path",
        "model",
        "--input_file",
        input,
        "--output_file",
        output,
    ])
}

fn input(name: &str, file: &'static str, content: &'static [u8], says: &[&str]) -> Case {
    Case::new(
        name,
        encode(file, "out.npy"),
        1,
        &[&[file], says].concat(),
        move |at: &Path| {
            fs::write(at.join(file), content).unwrap();
        },
    )
}

const CORPUS: &str = "{\"_id\": \"d1\", \"text\": \"bread\"}\n{\"_id\": \"d2\", \"text\": \"sail\"}\n";
const QUERIES: &str = "{\"_id\": \"q1\", \"text\": \"loaf\"}\n";
const QRELS: &str = "query-id\tcorpus-id\tscore\nq1\td1\t1\n";

/// A good evaluation folder `eval`, then a damage to it.
fn evaluate(name: &str, more: &[&str], says: &[&str], damage: fn(&Path)) -> Case {
    let mut args = words(&[
        "evaluate",
        "--embedder_name_or_path",
        "model",
        "--dataset",
        "eval",
    ]);
    args.extend(words(more));
    Case::new(name, args, 1, says, move |at: &Path| {
        let eval = at.join("eval");
        fs::create_dir_all(eval.join("qrels")).unwrap();
        fs::write(eval.join("corpus.jsonl"), CORPUS).unwrap();
        fs::write(eval.join("queries.jsonl"), QUERIES).unwrap();
        fs::write(eval.join("qrels/test.tsv"), QRELS).unwrap();
        damage(&eval);
    })
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "output_dir is a file",
            finetune(&[]),
            2,
            &["out", "output_dir", "folder"],
            |at| {
                fs::write(at.join("out"), "x").unwrap();
            },
        ),
        Case::new(
            "output_dir holds a run",
            finetune(&[]),
            2,
            &["out", "--overwrite_output_dir"],
            |at| {
                fs::create_dir_all(at.join("out/checkpoint-5")).unwrap();
            },
        ),
        Case::new(
            "output_dir below a file",
            finetune(&["--output_dir", "data.jsonl/out"]),
            1,
            &["data.jsonl/out"],
            |_| {},
        ),
        Case::new(
            "output_dir where nobody may write",
            finetune(&["--output_dir", "/proc/out"]),
            1,
            &["/proc/out"],
            |_| {},
        ),
        Case::new(
            "vectors of an unknown form",
            encode("data.jsonl", "out.csv"),
            2,
            &["out.csv", ".npy"],
            |_| {},
        ),
        Case::new(
            "vectors into no folder",
            encode("data.jsonl", "gone/out.npy"),
            1,
            &["gone/out.npy"],
            |_| {},
        ),
        Case::new(
            "vectors over a folder",
            encode("data.jsonl", "x.npy"),
            1,
            &["x.npy"],
            |at| {
                fs::create_dir_all(at.join("x.npy/y")).unwrap();
            },
        ),
        Case::new(
            "texts that are missing",
            encode("gone.jsonl", "out.npy"),
            1,
            &["gone.jsonl"],
            |_| {},
        ),
        Case::new(
            "texts in a folder",
            encode("model", "out.npy"),
            1,
            &["model", "folder"],
            |_| {},
        ),
        input(
            "a line without text",
            "texts.jsonl",
            b"{\"text\": \"a\"}\n{\"title\": \"b\"}\n",
            &[":2", "`text`"],
        ),
        input(
            "a broken line",
            "texts.jsonl",
            b"{\"text\": \"a\"}\n{\"text\": \n",
            &[":2", "JSON"],
        ),
        input(
            "text that is a number",
            "texts.jsonl",
            b"{\"text\": 7}\n",
            &[":1", "string"],
        ),
        input("texts that are not UTF-8", "texts.txt", b"ab\xff\n", &["UTF-8"]),
        Case::new(
            "vectors cut too long",
            [encode("data.jsonl", "out.npy"), words(&["--truncate_dim", "33"])].concat(),
            1,
            &["truncate_dim", "32"],
            |_| {},
        ),
        Case::new(
            "a role of its own",
            [encode("data.jsonl", "out.npy"), words(&["--role", "document"])].concat(),
            2,
            &["role", "passage"],
            |_| {},
        ),
        evaluate(
            "no such folder",
            &["--dataset", "gone"],
            &["gone", "no such folder"],
            |_| {},
        ),
        evaluate("no documents", &[], &["corpus.jsonl"], |eval| {
            fs::remove_file(eval.join("corpus.jsonl")).unwrap();
        }),
        evaluate("no queries", &[], &["queries.jsonl"], |eval| {
            fs::remove_file(eval.join("queries.jsonl")).unwrap();
        }),
        evaluate("no judgments", &[], &["test"], |eval| {
            fs::remove_dir_all(eval.join("qrels")).unwrap();
        }),
        evaluate("another split", &["--split", "dev"], &["dev", "test"], |_| {}),
        Case::new(
            "a split with a path",
            words(&[
                "evaluate",
                "--embedder_name_or_path",
                "model",
                "--dataset",
                "eval",
                "--split",
                "../x",
            ]),
            2,
            &["split", "../x", "qrels/"],
            |_| {},
        ),
        evaluate("a score that is a word", &[], &["test.tsv:2", "score"], |eval| {
            fs::write(
                eval.join("qrels/test.tsv"),
                "query-id\tcorpus-id\tscore\nq1\td1\tgood\n",
            )
            .unwrap();
        }),
        evaluate("a column too few", &[], &["test.tsv:2"], |eval| {
            fs::write(
                eval.join("qrels/test.tsv"),
                "query-id\tcorpus-id\tscore\nq1\td1\n",
            )
            .unwrap();
        }),
        evaluate("ids that nobody knows", &[], &["test", "ids"], |eval| {
            fs::write(
                eval.join("qrels/test.tsv"),
                "query-id\tcorpus-id\tscore\nx\ty\t1\n",
            )
            .unwrap();
        }),
        evaluate("only irrelevant judgments", &[], &["test", "relevant"], |eval| {
            fs::write(
                eval.join("qrels/test.tsv"),
                "query-id\tcorpus-id\tscore\nq1\td1\t0\n",
            )
            .unwrap();
        }),
        evaluate("a broken document", &[], &["corpus.jsonl:1"], |eval| {
            fs::write(eval.join("corpus.jsonl"), "{\n").unwrap();
        }),
        evaluate("an id twice", &[], &["corpus.jsonl:3", "d1"], |eval| {
            fs::write(
                eval.join("corpus.jsonl"),
                format!("{CORPUS}{{\"_id\": \"d1\", \"text\": \"x\"}}\n"),
            )
            .unwrap();
        }),
        evaluate("a packed file that is cut", &[], &["corpus.jsonl.gz"], |eval| {
            fs::remove_file(eval.join("corpus.jsonl")).unwrap();
            fs::write(eval.join("corpus.jsonl.gz"), b"\x1f\x8b\x08\0\0\0\0\0").unwrap();
        }),
        evaluate(
            "a report into no folder",
            &["--report", "gone/page.html"],
            &["gone/page.html"],
            |_| {},
        ),
        Case::new(
            "evaluation data that is missing, in training",
            finetune(&[
                "--eval_dataset",
                "gone",
                "--eval_strategy",
                "steps",
                "--eval_steps",
                "1",
            ]),
            1,
            &["gone"],
            |_| {},
        ),
    ]
}
