//! Any bytes, under any roles, are converted or set aside, and cut anywhere alike.

#![no_main]

use bge_core::data::convert::{ConvertOptions, ConvertReport, Converted, Converter, Role};
use bge_fuzz::Choice;
use libfuzzer_sys::fuzz_target;

fn convert(choice: Choice, bytes: &[u8], whole: bool) -> (Converted, ConvertReport) {
    let mut converter = Converter::new(ConvertOptions {
        group: choice.bit(0),
        quotes: choice.bit(1),
        max_group_bytes: if choice.bit(2) { 300 } else { 1 << 20 },
        ..ConvertOptions::default()
    });
    let mut out = Converted::default();
    for file in Choice::files(bytes) {
        // The first byte of a file chooses what it holds.
        let (role, file) = file.split_first().unwrap_or((&0, file));
        let role = Role::ALL[usize::from(*role) % Role::ALL.len()];
        if converter.start_file(role.as_str(), role, &mut out).is_ok() {
            for piece in choice.pieces(file, whole) {
                converter.push(piece, &mut out);
            }
        }
    }
    let report = converter.finish(&mut out);
    (out, report)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = Choice::take(bytes) else {
        return;
    };
    let (out, report) = convert(choice, bytes, true);
    assert_eq!((&out, &report), (&convert(choice, bytes, false).0, &convert(choice, bytes, false).1));
    let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert_eq!((lines(&out.rows), lines(&out.quarantine)), (report.written, report.quarantined));
});
