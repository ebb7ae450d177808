//! The built-in exact search finds what a loop in f64 finds, to the last bit, whatever is asked.

use bge_core::ErrorKind;
use bge_core::search::{
    Exact, IndexSpec, Rows, SearchIndex, VectorLayout, VectorStore, VectorType, VectorWriter, open_index,
};

use super::{KINDS, data, naive};

fn stored(data: &[f32], dim: usize, dtype: VectorType) -> (tempfile::TempDir, VectorStore) {
    let folder = tempfile::tempdir().unwrap();
    let layout = VectorLayout {
        dtype,
        dim,
        key: [0; 32],
    };
    let mut writer = VectorWriter::create(&folder.path().join("v"), layout).unwrap();
    writer.push(data).unwrap();
    let store = writer.finish().unwrap();
    (folder, store)
}

#[test]
fn exact_lists_are_those_of_a_loop() {
    for kind in KINDS {
        for (rows, queries, dim) in [(1, 1, 1), (7, 3, 2), (600, 50, 17), (2000, 130, 33)] {
            let corpus = data(kind, rows, dim, 1);
            let asked = data(if kind == "rising" { "random" } else { kind }, queries, dim, 2);
            let mut index = Exact::new(Rows::Memory { data: &corpus, dim }).unwrap();
            assert_eq!((index.len(), index.dim(), index.is_empty()), (rows, dim, false));
            for k in [0, 1, 10, 200, rows, 10_000] {
                let found = index.search(&asked, k).unwrap();
                assert!(
                    found == naive(&corpus, &asked, dim, k),
                    "{kind}, {rows} rows of {dim}, k {k}"
                );
            }
        }
    }
}

#[test]
fn stored_rows_are_searched_like_those_in_memory() {
    let (rows, dim, k) = (1500, 24, 50);
    let (corpus, queries) = (data("random", rows, dim, 3), data("random", 70, dim, 4));
    for dtype in [VectorType::F32, VectorType::F16] {
        let (_folder, store) = stored(&corpus, dim, dtype);
        let mut read = Vec::new();
        store.block(0..rows, &mut read).unwrap();
        assert_eq!(read == corpus, dtype == VectorType::F32);
        let mut index = Exact::new(Rows::Stored(&store)).unwrap();
        assert!(index.search(&queries, k).unwrap() == naive(&read, &queries, dim, k));
    }
}

#[test]
fn threads_and_batches_change_nothing() {
    let (rows, dim, k) = (5000, 48, 37);
    for kind in ["random", "clustered", "copies"] {
        let (corpus, queries) = (data(kind, rows, dim, 5), data(kind, 101, dim, 6));
        let expected = naive(&corpus, &queries, dim, k);
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            for batch in [1, 15, 64, 101] {
                let mut index = Exact::new(Rows::Memory { data: &corpus, dim }).unwrap();
                let found: Vec<_> = pool.install(|| {
                    let batches = queries.chunks(batch * dim);
                    batches
                        .flat_map(|queries| index.search(queries, k).unwrap())
                        .collect()
                });
                assert!(
                    found == expected,
                    "{kind}, {threads} threads, {batch} queries at once"
                );
            }
        }
    }
}

#[test]
fn a_collapsed_corpus_costs_time_but_no_list() {
    // So many rows of one score that no f32 can tell which are the best.
    let (rows, dim, k) = (20_000, 8, 100);
    let corpus = data("equal", rows, dim, 0);
    let queries = data("random", 20, dim, 7);
    let found = Exact::new(Rows::Memory { data: &corpus, dim })
        .unwrap()
        .search(&queries, k)
        .unwrap();
    for list in found {
        let ids: Vec<u32> = list.iter().map(|hit| hit.id).collect();
        assert_eq!(ids, (0..k as u32).collect::<Vec<_>>());
    }
}

#[test]
fn places_decide_between_equal_scores() {
    let (rows, dim, k) = (3000, 6, 40);
    let (corpus, queries) = (data("coarse", rows, dim, 8), data("coarse", 30, dim, 9));
    let places: Vec<u32> = (0..rows as u32).rev().collect();
    let mut index = Exact::new(Rows::Memory { data: &corpus, dim })
        .unwrap()
        .with_places(places)
        .unwrap();
    let found = index.search(&queries, k).unwrap();
    for (list, mut all) in found.iter().zip(naive(&corpus, &queries, dim, rows)) {
        all.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.id.cmp(&a.id)));
        assert_eq!(*list, all[..k]);
    }
    let index = Exact::new(Rows::Memory { data: &corpus, dim }).unwrap();
    assert_eq!(
        index.with_places(vec![0]).unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
}

#[test]
fn rows_and_queries_without_a_ranking_are_named() {
    let dim = 4;
    let mut corpus = data("random", 1000, dim, 10);
    assert!(
        Exact::new(Rows::Memory {
            data: &corpus[1..],
            dim
        })
        .is_err()
    );
    assert!(
        Exact::new(Rows::Memory {
            data: &corpus,
            dim: 0
        })
        .is_err()
    );
    let mut index = Exact::new(Rows::Memory { data: &corpus, dim }).unwrap();
    assert!(index.search(&[1.0; 7], 3).is_err());
    let error = index
        .search(&[0.0, 0.0, 0.0, 0.0, 0.0, f32::INFINITY, 0.0, 0.0], 3)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFinite);
    assert!(error.to_string().contains("query 2 holds inf"), "{error}");
    assert_eq!(index.search(&[], 3).unwrap(), Vec::<Vec<_>>::new());
    for (row, x) in [(999, f32::INFINITY), (700, f32::NAN), (3, f32::NEG_INFINITY)] {
        corpus[row * dim + 2] = x;
        let error = Exact::new(Rows::Memory { data: &corpus, dim }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFinite);
        let words = format!("row {} holds {x}", row + 1);
        assert!(error.to_string().contains(&words), "{error}");
    }
}

#[test]
fn an_empty_corpus_has_empty_lists() {
    let mut index = Exact::new(Rows::Memory { data: &[], dim: 3 }).unwrap();
    assert_eq!(index.search(&[1.0; 6], 5).unwrap(), vec![Vec::new(); 2]);
    let (_folder, store) = stored(&[], 3, VectorType::F32);
    let mut index = Exact::new(Rows::Stored(&store)).unwrap();
    assert_eq!(index.search(&[1.0; 6], 5).unwrap(), vec![Vec::new(); 2]);
}

#[test]
fn what_this_build_lacks_is_said() {
    let corpus = data("random", 10, 4, 11);
    let rows = Rows::Memory {
        data: &corpus,
        dim: 4,
    };
    let default = IndexSpec::default();
    assert_eq!(
        open_index(rows, &default)
            .unwrap()
            .search(&corpus, 1)
            .unwrap()
            .len(),
        10
    );
    let on_gpu = IndexSpec {
        use_gpu: true,
        ..IndexSpec::default()
    };
    let faiss_on_gpu = IndexSpec {
        factory: Some("Flat".to_owned()),
        ..on_gpu.clone()
    };
    for (spec, way_out) in [
        (on_gpu, "bge_core/cuda"),
        (faiss_on_gpu, "leave the factory string out"),
    ] {
        let error = open_index(rows, &spec).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(
            text.contains("use_gpu_for_searching") && text.contains(way_out),
            "{text}"
        );
    }
    let faiss = IndexSpec {
        factory: Some("HNSW32".to_owned()),
        ..default
    };
    if cfg!(feature = "faiss") {
        assert!(open_index(rows, &faiss).is_ok());
    } else {
        let error = open_index(rows, &faiss).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("feature `faiss`"), "{error}");
    }
}
