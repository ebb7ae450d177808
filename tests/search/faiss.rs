//! Real FAISS: `Flat` has the lists of the built-in search, other indexes find most of them, all of them obey the contract.

use bge_core::ErrorKind;
use bge_core::random::Draws;
use bge_core::search::{
    Exact, Faiss, FaissOptions, Hit, IndexSpec, Rows, SearchIndex, VectorLayout, VectorType, VectorWriter,
    open_index,
};

use super::{KINDS, data, naive};

fn flat() -> IndexSpec {
    IndexSpec {
        factory: Some("Flat".to_owned()),
        ..IndexSpec::default()
    }
}

/// Unit vectors around a few hundred centers, as embeddings are.
fn embeddings(rows: usize, dim: usize, seed: u64) -> Vec<f32> {
    let centers = data("random", 300, dim, 99);
    let mut draws = Draws::new(seed);
    let mut data = Vec::with_capacity(rows * dim);
    for _ in 0..rows {
        let center = draws.below(300) * dim;
        let row: Vec<f32> = (0..dim)
            .map(|i| centers[center + i] + 0.5 * draws.normal() as f32)
            .collect();
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        data.extend(row.iter().map(|x| x / norm));
    }
    data
}

fn recall(found: &[Vec<Hit>], truth: &[Vec<Hit>]) -> f64 {
    let common =
        |(found, truth): (&Vec<Hit>, &Vec<Hit>)| found.iter().filter(|hit| truth.contains(hit)).count();
    let found: usize = found.iter().zip(truth).map(common).sum();
    found as f64 / truth.iter().map(Vec::len).sum::<usize>() as f64
}

#[test]
fn faiss_flat_and_the_built_in_search_agree_in_every_bit() {
    for kind in KINDS {
        for (rows, queries, dim) in [(1, 1, 1), (300, 5, 7), (3000, 60, 65), (1000, 30, 384)] {
            let corpus = data(kind, rows, dim, 21);
            let asked = data(if kind == "rising" { "random" } else { kind }, queries, dim, 22);
            let here = Rows::Memory { data: &corpus, dim };
            let (mut exact, mut faiss) = (Exact::new(here).unwrap(), open_index(here, &flat()).unwrap());
            for k in [0, 1, 100, 5000] {
                let (exact, faiss) = (exact.search(&asked, k).unwrap(), faiss.search(&asked, k).unwrap());
                assert!(exact == faiss, "{kind}, {rows} rows of {dim}, k {k}");
            }
        }
    }
    // Batches under and over 20 queries take different ways through FAISS.
    let (corpus, queries) = (embeddings(4000, 96, 1), embeddings(41, 96, 2));
    let mut faiss = open_index(
        Rows::Memory {
            data: &corpus,
            dim: 96,
        },
        &flat(),
    )
    .unwrap();
    let expected = naive(&corpus, &queries, 96, 50);
    for batch in [1, 7, 41] {
        let found: Vec<_> = queries
            .chunks(batch * 96)
            .flat_map(|queries| faiss.search(queries, 50).unwrap())
            .collect();
        assert!(found == expected, "{batch} queries at once");
    }
}

#[test]
fn approximate_indexes_find_most_and_score_it_exactly() {
    let dim = 64;
    let (corpus, queries) = (embeddings(6000, dim, 3), embeddings(50, dim, 4));
    let here = Rows::Memory { data: &corpus, dim };
    let truth = naive(&corpus, &queries, dim, 20);
    let all = naive(&corpus, &queries, dim, 6000);
    let mut options = FaissOptions {
        nprobe: Some(8),
        train_rows: Some(4000),
        ..FaissOptions::default()
    };
    for (factory, floor) in [
        ("IVF32,Flat", 0.9),
        ("HNSW32", 0.9),
        ("PQ16x4", 0.4),
        ("IVF32,PQ16x4", 0.4),
        ("SQ8", 0.95),
    ] {
        options.nprobe = factory.starts_with("IVF").then_some(8);
        options.ef_search = factory.starts_with("HNSW").then_some(128);
        let spec = IndexSpec {
            factory: Some(factory.to_owned()),
            options: options.clone(),
            ..IndexSpec::default()
        };
        let found = open_index(here, &spec).unwrap().search(&queries, 20).unwrap();
        let recall = recall(&found, &truth);
        assert!(recall >= floor, "{factory} finds {recall}");
        for (list, all) in found.iter().zip(&all) {
            assert!(list.iter().all(|hit| all.contains(hit)), "{factory}");
            assert!(list.is_sorted_by(|a, b| b.score < a.score || b.score == a.score && a.id < b.id));
        }
    }
    // Looking into more lists finds more.
    let find = |nprobe| {
        let options = FaissOptions {
            nprobe: Some(nprobe),
            ..FaissOptions::default()
        };
        let mut index = Faiss::build(here, "IVF32,Flat", &options).unwrap();
        recall(&index.search(&queries, 20).unwrap(), &truth)
    };
    assert!(find(1) < find(8));
    assert_eq!(find(32), 1.0);
}

#[test]
fn a_saved_index_finds_the_same() {
    let dim = 32;
    let (corpus, queries) = (embeddings(3000, dim, 5), embeddings(25, dim, 6));
    let folder = tempfile::tempdir().unwrap();
    let layout = VectorLayout {
        dtype: VectorType::F16,
        dim,
        key: [1; 32],
    };
    let mut writer = VectorWriter::create(&folder.path().join("v"), layout).unwrap();
    writer.push(&corpus).unwrap();
    let store = writer.finish().unwrap();
    let options = FaissOptions {
        nprobe: Some(4),
        ..FaissOptions::default()
    };
    let mut index = Faiss::build(Rows::Stored(&store), "IVF16,Flat", &options).unwrap();
    let path = folder.path().join("index.faiss");
    index.save(&path).unwrap();
    let mut again = Faiss::load(Rows::Stored(&store), &path, &options).unwrap();
    assert_eq!(
        again.search(&queries, 10).unwrap(),
        index.search(&queries, 10).unwrap()
    );
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 2, "no file is left beside");

    let fewer = Rows::Memory {
        data: &corpus[dim..],
        dim,
    };
    let error = Faiss::load(fewer, &path, &options).unwrap_err();
    assert!(
        error.to_string().contains("3000 rows of 32, not the 2999 of 32"),
        "{error}"
    );
    let narrower = Rows::Memory {
        data: &corpus,
        dim: 16,
    };
    assert!(Faiss::load(narrower, &path, &options).is_err());
    let here = Rows::Memory { data: &corpus, dim };
    let error = Faiss::load(here, &folder.path().join("none"), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    for bytes in [&b""[..], b"{}", &std::fs::read(&path).unwrap()[..5000]] {
        let cut = folder.path().join("cut");
        std::fs::write(&cut, bytes).unwrap();
        let error = Faiss::load(here, &cut, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
    assert!(index.save(&folder.path().join("no/such/folder")).is_err());
}

#[test]
fn what_faiss_cannot_make_is_refused() {
    let dim = 8;
    let corpus = data("random", 20, dim, 30);
    let here = Rows::Memory { data: &corpus, dim };
    let options = FaissOptions::default();
    for factory in ["Nonsense", "IVF", "PQ3", "IVF4096,Flat", "\0"] {
        let error = Faiss::build(here, factory, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{factory}");
        assert!(error.to_string().contains("20 rows of 8"), "{error}");
    }
    let nowhere = FaissOptions {
        nprobe: Some(4),
        ..FaissOptions::default()
    };
    let error = Faiss::build(here, "Flat", &nowhere).unwrap_err();
    assert!(error.to_string().contains("nprobe"), "{error}");
    let none = FaissOptions {
        ef_search: Some(0),
        ..FaissOptions::default()
    };
    assert!(Faiss::build(here, "HNSW8", &none).is_err());
    let mut bad = corpus.clone();
    bad[13 * dim] = f32::NAN;
    let error = Faiss::build(Rows::Memory { data: &bad, dim }, "Flat", &options).unwrap_err();
    assert!(error.to_string().contains("row 14 holds NaN"), "{error}");
    let mut index = Faiss::build(here, "Flat", &options).unwrap();
    assert!(index.search(&[1.0; 9], 1).is_err());
    assert!(index.search(&[f32::NAN; 8], 1).is_err());
    let mut empty = Faiss::build(Rows::Memory { data: &[], dim }, "Flat", &options).unwrap();
    assert_eq!(empty.search(&[1.0; 8], 5).unwrap(), vec![Vec::new()]);
    assert!(Faiss::build(Rows::Memory { data: &[], dim }, "IVF4,Flat", &options).is_err());
}
