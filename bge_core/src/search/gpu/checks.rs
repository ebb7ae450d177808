//! The search on an emulated GPU against the search on the processor, to the last bit.

use super::*;
use crate::cuda::emulator::emulator;
use crate::cuda::gpu::Storage;
use crate::cuda::kernels::Variant;
use crate::cuda::metered::metered;
use crate::random::Draws;
use crate::search::{Exact, VectorLayout, VectorStore, VectorType, VectorWriter};

/// A GPU for products of f32; `None` where it cannot be emulated.
fn machine() -> Option<Arc<dyn Gpu>> {
    emulator(Variant::new(Storage::F32, 96, 3).unwrap())
}

/// So little that a small corpus needs several stretches, batches and rounds.
const LITTLE: Limits = Limits {
    queries: 24,
    rows: 512,
    numbers: 1 << 20,
    scores: 4096,
    part: 200,
    reached: 500,
};

fn vectors(kind: &str, count: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut draws = Draws::new(seed);
    let row = |row: usize| -> Vec<f32> {
        let size = match kind {
            "large" => 1e30,
            "tiny" => 1e-30,
            "mixed" => [1.0, 1e-4, 1e4][row / 256 % 3],
            "rising" => 1.0 + row as f64 / 16.0,
            _ => 1.0,
        };
        let numbers = (0..dim).map(|i| match kind {
            "copies" => i as f64 % 5.0 - 1.5,
            "ties" => f64::from(draws.below(2) as u32),
            "near" => i as f64 % 5.0 - 1.5 + 1e-6 * draws.normal(),
            // Every other block has a norm, and so an error, that its scores do not show.
            "shadow" if i + 1 == dim => 1e6 * (row / 256 % 2) as f64,
            _ => draws.normal(),
        });
        numbers.map(|x| (x * size) as f32).collect()
    };
    (0..count).flat_map(row).collect()
}

#[track_caller]
fn same(what: &str, rows: Rows, limits: Limits, queries: &[f32], k: usize) {
    let Some(gpu) = machine() else { return };
    let want = Exact::new(rows).unwrap().search(queries, k).unwrap();
    let mut index = ExactOnGpu::new(rows, gpu, limits).unwrap();
    let got = index.search(queries, k).unwrap();
    assert!(
        got == want,
        "{what}: {} rows of {}, k {k}",
        rows.len(),
        rows.dim()
    );
}

fn stored(data: &[f32], dim: usize, dtype: VectorType) -> (tempfile::TempDir, VectorStore) {
    let folder = tempfile::tempdir().unwrap();
    let key = [0; 32];
    let layout = VectorLayout { dtype, dim, key };
    let mut writer = VectorWriter::create(&folder.path().join("v"), layout).unwrap();
    writer.push(data).unwrap();
    let store = writer.finish().unwrap();
    (folder, store)
}

#[test]
fn a_gpu_finds_what_the_processor_finds() {
    for kind in [
        "normal", "large", "tiny", "mixed", "rising", "copies", "ties", "near", "shadow",
    ] {
        for (count, dim, k) in [(1500, 33, 10), (700, 1, 300)] {
            let data = vectors(kind, count, dim, 1);
            let queries = vectors(kind, 30, dim, 2);
            same(kind, Rows::Memory { data: &data, dim }, LITTLE, &queries, k);
        }
    }
}

#[test]
fn a_gpu_reads_rows_from_disk_in_f32_and_in_f16() {
    let (dim, count) = (19, 1100);
    let (data, queries) = (vectors("normal", count, dim, 3), vectors("normal", 30, dim, 4));
    for dtype in [VectorType::F32, VectorType::F16] {
        let (_folder, store) = stored(&data, dim, dtype);
        let rows = Rows::Stored(&store);
        same("several stretches", rows, LITTLE, &queries, 40);
        same(
            "stretches that grow",
            rows,
            Limits::default(),
            &queries[..3 * dim],
            40,
        );
        same("one stretch", rows, Limits::default(), &queries[..dim], count);
    }
}

#[test]
fn a_corpus_smaller_than_a_block_or_than_k_is_searched_whole() {
    for (count, k) in [(1, 1), (1, 5), (100, 7), (100, 100), (300, 1000), (257, 256)] {
        let (data, queries) = (vectors("normal", count, 12, 5), vectors("normal", 5, 12, 6));
        let rows = Rows::Memory { data: &data, dim: 12 };
        same("few rows", rows, LITTLE, &queries, k);
    }
}

#[test]
fn a_full_buffer_loses_no_candidate() {
    // The best rows come last, so that every score of every stretch reaches the threshold.
    let (dim, count) = (4, 1024);
    let data: Vec<f32> = (0..count * dim).map(|i| (i / dim) as f32).collect();
    let queries = vec![1.0; 20 * dim];
    let rows = Rows::Memory { data: &data, dim };
    for (part, reached) in [(1, 1), (128, 128), (200, 201), (512, 1 << 20)] {
        let limits = Limits {
            part,
            reached,
            ..LITTLE
        };
        let queries = if part == 1 { &queries[..dim] } else { &queries };
        same("rising", rows, limits, queries, 3);
        same(
            "copies",
            Rows::Memory {
                data: &vec![1.0; 600 * dim],
                dim,
            },
            limits,
            queries,
            3,
        );
    }
}

#[test]
fn a_block_of_long_rows_is_a_stretch_whatever_fits() {
    let limits = Limits {
        numbers: 1,
        scores: 1,
        ..LITTLE
    };
    let (data, queries) = (vectors("normal", 600, 30, 7), vectors("normal", 3, 30, 8));
    same(
        "long rows",
        Rows::Memory { data: &data, dim: 30 },
        limits,
        &queries,
        20,
    );
}

#[test]
fn nothing_asked_or_nothing_there_is_nothing_found() {
    let Some(gpu) = machine() else { return };
    let data = vectors("normal", 10, 4, 9);
    let rows = Rows::Memory { data: &data, dim: 4 };
    let mut index = ExactOnGpu::new(rows, Arc::clone(&gpu), LITTLE).unwrap();
    assert_eq!((index.len(), index.dim()), (10, 4));
    assert!(index.search(&[], 3).unwrap().is_empty());
    assert_eq!(index.search(&data[..8], 0).unwrap(), [vec![], vec![]]);
    let none = Rows::Memory { data: &[], dim: 4 };
    let mut index = ExactOnGpu::new(none, gpu, LITTLE).unwrap();
    assert_eq!(index.search(&data[..4], 3).unwrap(), [vec![]]);
}

#[test]
fn what_has_no_place_in_a_ranking_is_refused() {
    let Some(gpu) = machine() else { return };
    let bad = [0.0, 1.0, f32::NAN, 0.0];
    let rows = Rows::Memory { data: &bad, dim: 2 };
    let error = ExactOnGpu::new(rows, Arc::clone(&gpu), LITTLE).unwrap_err();
    assert!(error.to_string().contains("row 2"), "{error}");
    let rows = Rows::Memory {
        data: &bad[..2],
        dim: 2,
    };
    let mut index = ExactOnGpu::new(rows, gpu, LITTLE).unwrap();
    let error = index.search(&bad, 1).unwrap_err();
    assert!(error.to_string().contains("query 2"), "{error}");
}

#[test]
fn products_keep_all_bits_of_an_f32() {
    let Some(gpu) = machine() else { return };
    // One factor is a unit matrix: each sum has one term, which TF32 would round to 11 bits.
    for (queries, rows, dim) in [(64, 192, 64), (3, 200, 33), (256, 1024, 256)] {
        if queries > 64 && crate::cuda::emulator::real().is_none() {
            continue; // the processor does it too slowly, and has no TF32
        }
        let units: Vec<f32> = (0..queries * dim)
            .map(|i| f32::from(u8::from(i / dim % dim == i % dim)))
            .collect();
        let data = vectors("normal", rows, dim, 10);
        let (a, b) = (memory_of(&gpu, &units).unwrap(), memory_of(&gpu, &data).unwrap());
        let out = gpu.alloc(queries * rows * 4).unwrap();
        gpu.product(Product {
            size: [queries, rows, dim],
            a: Matrix::new(a.address(), dim),
            b: Matrix::new(b.address(), dim).t(),
            out: Matrix::new(out.address(), rows),
            wide: false,
            exact: true,
            add: false,
            extra: Extra::Nothing,
        })
        .unwrap();
        let got: Vec<f32> = read_values(&gpu, out.address(), queries * rows).unwrap();
        for (at, got) in got.iter().enumerate() {
            assert_eq!(*got, data[at % rows * dim + at / rows % dim], "{at}");
        }
    }
}

#[test]
fn a_gpu_with_little_room_is_given_less_at_once() {
    let (dim, count) = (16, 1500);
    let (data, queries) = (vectors("normal", count, dim, 11), vectors("normal", 40, dim, 12));
    let rows = Rows::Memory { data: &data, dim };
    let want = Exact::new(rows).unwrap().search(&queries, 7).unwrap();
    // The scores that come back take 32 MiB at first.
    for (room, most) in [(32 << 20, 0), (9 << 20, 2), (2 << 20, 4)] {
        let Some(gpu) = machine() else { return };
        let (gpu, meter) = metered(gpu, room);
        let mut index = ExactOnGpu::new(rows, gpu, Limits::default()).unwrap();
        assert!(index.search(&queries, 7).unwrap() == want, "{room}");
        assert_eq!(meter.refused(), most, "{room}");
        // What fits is known from here on.
        assert!(index.search(&queries, 7).unwrap() == want, "{room}");
        assert_eq!(meter.refused(), most, "{room}");
    }
}

#[test]
fn a_gpu_without_any_room_says_so_and_the_way_out() {
    let Some(gpu) = machine() else { return };
    let (gpu, _) = metered(gpu, 100);
    let data = vectors("normal", 300, 8, 13);
    let rows = Rows::Memory { data: &data, dim: 8 };
    let mut index = ExactOnGpu::new(rows, gpu, Limits::default()).unwrap();
    let error = index.search(&data[..32], 3).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let text = error.to_string();
    assert!(text.contains("no room"), "{text}");
    assert!(text.contains("use_gpu_for_searching"), "{text}");
}

#[test]
fn a_gpu_that_fails_says_how_to_search_without_it() {
    let cause = Error::new(crate::ErrorKind::Device, "the GPU cannot run `take_reached`");
    let error = told(cause);
    assert_eq!(error.kind(), crate::ErrorKind::Device);
    let text = error.to_string();
    assert!(
        text.contains("leave out `use_gpu_for_searching`") && text.contains("take_reached"),
        "{text}"
    );
}

#[test]
#[cfg(feature = "cuda")]
fn a_machine_without_that_gpu_says_how_to_search_without_it() {
    let spec = crate::search::IndexSpec {
        use_gpu: true,
        gpu: 9999,
        ..crate::search::IndexSpec::default()
    };
    let rows = Rows::Memory { data: &[1.0], dim: 1 };
    let error = crate::search::open_index(rows, &spec).err().unwrap();
    assert_eq!(error.kind(), crate::ErrorKind::Device);
    assert!(
        error.to_string().contains("leave out `use_gpu_for_searching`"),
        "{error}"
    );
}
