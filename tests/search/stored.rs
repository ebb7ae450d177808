//! Vectors on disk: every crash and every damage is noticed.

use std::fs;
use std::path::Path;

use bge_core::ErrorKind;
use bge_core::random::Draws;
use bge_core::search::{VectorLayout, VectorStore, VectorType, VectorWriter};

fn layout(dtype: VectorType, dim: usize) -> VectorLayout {
    VectorLayout {
        dtype,
        dim,
        key: [7; 32],
    }
}

/// Numbers that f16 holds exactly.
fn numbers(rows: usize, dim: usize) -> Vec<f32> {
    let mut draws = Draws::new(rows as u64);
    (0..rows * dim)
        .map(|_| (draws.below(2001) as f32 - 1000.0) / 1024.0)
        .collect()
}

fn part(path: &Path) -> std::path::PathBuf {
    path.with_file_name("v.bin.part")
}

#[test]
fn stored_rows_come_back_by_block_and_by_row() {
    let folder = tempfile::tempdir().unwrap();
    for dtype in [VectorType::F32, VectorType::F16] {
        for (rows, dim) in [(0, 3), (1, 1), (255, 7), (256, 5), (257, 33), (1000, 16)] {
            let path = folder.path().join("v.bin");
            let data = numbers(rows, dim);
            let mut writer = VectorWriter::create(&path, layout(dtype, dim)).unwrap();
            for piece in data.chunks(dim * 100) {
                writer.push(piece).unwrap();
            }
            assert_eq!(writer.rows(), rows);
            assert!(!path.exists() || VectorStore::open(&path).is_ok());
            let store = writer.finish().unwrap();
            assert_eq!(
                (store.len(), store.dim(), store.is_empty()),
                (rows, dim, rows == 0)
            );
            store.verify().unwrap();
            let mut out = vec![9.0];
            store.block(0..rows, &mut out).unwrap();
            assert_eq!(out, data);
            if rows > 200 {
                store.block(100..rows - 50, &mut out).unwrap();
                assert_eq!(out, data[100 * dim..(rows - 50) * dim]);
                store.row(rows - 1, &mut out).unwrap();
                assert_eq!(out, data[(rows - 1) * dim..]);
            }
            let error = store.row(rows, &mut out).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }
}

#[test]
fn an_interrupted_file_goes_on_after_its_last_whole_block() {
    let folder = tempfile::tempdir().unwrap();
    let (path, whole) = (folder.path().join("v.bin"), folder.path().join("whole"));
    let (rows, dim) = (1000, 9);
    let data = numbers(rows, dim);
    let layout = layout(VectorType::F32, dim);
    let mut writer = VectorWriter::create(&whole, layout).unwrap();
    writer.push(&data).unwrap();
    writer.finish().unwrap();
    let whole = fs::read(whole).unwrap();
    let block = (256 * dim * 4 + 8_usize).next_multiple_of(64);
    // Cut everywhere interesting: no header, in the header, after it, in a block, at its end, in the trailer.
    for cut in [
        0,
        10,
        64,
        65,
        64 + block - 1,
        64 + block,
        64 + 2 * block + 5,
        whole.len() - 1,
        whole.len(),
    ] {
        fs::write(part(&path), &whole[..cut]).unwrap();
        let mut writer = VectorWriter::resume(&path, layout).unwrap();
        let there = if cut < 64 {
            0
        } else {
            ((cut - 64) / block).min(3) * 256
        };
        assert_eq!(writer.rows(), there, "cut at {cut}");
        writer.push(&data[there * dim..]).unwrap();
        writer.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole, "cut at {cut}");
        assert!(!part(&path).exists());
    }
    // A block whose end was written and whose middle was not.
    let mut torn = whole[..64 + 2 * block].to_vec();
    torn[64 + block + 100..64 + block + 200].fill(0);
    fs::write(part(&path), torn).unwrap();
    assert_eq!(VectorWriter::resume(&path, layout).unwrap().rows(), 256);
    // Blocks of the right content in the wrong place.
    let mut swapped = whole[..64 + 2 * block].to_vec();
    swapped[64..].rotate_left(block);
    fs::write(part(&path), swapped).unwrap();
    assert_eq!(VectorWriter::resume(&path, layout).unwrap().rows(), 0);
}

#[test]
fn vectors_of_something_else_are_not_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.bin");
    let mine = layout(VectorType::F32, 4);
    let others = [
        VectorLayout { key: [8; 32], ..mine },
        VectorLayout { dim: 5, ..mine },
        VectorLayout {
            dtype: VectorType::F16,
            ..mine
        },
    ];
    let mut writer = VectorWriter::create(&path, mine).unwrap();
    writer.push(&numbers(600, 4)).unwrap();
    drop(writer);
    let kept = fs::read(part(&path)).unwrap();
    for other in others {
        fs::write(part(&path), &kept).unwrap();
        assert_eq!(VectorWriter::resume(&path, other).unwrap().rows(), 0);
    }
    fs::write(part(&path), &kept).unwrap();
    let mut writer = VectorWriter::resume(&path, mine).unwrap();
    assert_eq!(writer.rows(), 512);
    writer.push(&[0.5; 8]).unwrap();
    writer.finish().unwrap();
    assert_eq!(
        VectorStore::open_current(&path, &mine).unwrap().unwrap().len(),
        514
    );
    for other in others {
        assert!(VectorStore::open_current(&path, &other).unwrap().is_none());
    }
    assert!(
        VectorStore::open_current(&folder.path().join("none"), &mine)
            .unwrap()
            .is_none()
    );
}

#[test]
fn two_writers_of_one_file_do_not_meet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.bin");
    let first = VectorWriter::create(&path, layout(VectorType::F32, 4)).unwrap();
    let error = VectorWriter::resume(&path, layout(VectorType::F32, 4)).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    first.finish().unwrap();
}

#[test]
fn foreign_cut_and_damaged_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.bin");
    let layout = layout(VectorType::F32, 4);
    let mut writer = VectorWriter::create(&path, layout).unwrap();
    writer.push(&numbers(300, 4)).unwrap();
    writer.finish().unwrap();
    let sound = fs::read(&path).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = sound.clone();
        bytes[at] ^= byte;
        bytes
    };
    let cases = [
        (Vec::new(), "too short"),
        (b"{\"query\": \"a\"}\n".repeat(20), "not a file of vectors"),
        (sound[..sound.len() - 1].to_vec(), "ends too early"),
        (sound[..500].to_vec(), "ends too early"),
        (with(7, 3), "another version"),
        (with(17, 1), "header is damaged"),
        (with(30, 1), "header is damaged"),
        (with(sound.len() - 56, 1), "ends too early"),
        ([&sound[..64], &sound[128..]].concat(), "length of the file"),
    ];
    for (bytes, words) in cases {
        fs::write(&path, bytes).unwrap();
        let error = VectorStore::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains("v.bin"), "{error}");
        assert!(VectorStore::open_current(&path, &layout).unwrap().is_none());
    }
    fs::write(&path, with(4500, 1)).unwrap();
    let error = VectorStore::open(&path).unwrap().verify().unwrap_err();
    assert!(error.to_string().contains("rows 257 to 300"), "{error}");
    assert!(VectorStore::open_current(&path, &layout).unwrap().is_none());
    let error = VectorStore::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("read this file"), "{error}");
}

#[test]
fn numbers_that_have_no_place_are_named_by_their_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.bin");
    let mut writer = VectorWriter::create(&path, layout(VectorType::F16, 2)).unwrap();
    writer.push(&[1.0, 2.0]).unwrap();
    for (x, words) in [(f32::NAN, "row 3 holds NaN"), (1e6, "row 3 holds 1000000")] {
        let error = writer.push(&[0.0, 0.0, 0.0, x]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFinite);
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(writer.push(&[1.0]).is_err());
    assert_eq!(writer.rows(), 1);
    for dim in [0, usize::MAX] {
        assert!(VectorWriter::create(&path, layout(VectorType::F32, dim)).is_err());
    }
}
