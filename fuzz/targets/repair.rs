//! Any bytes are repaired or set aside, cut anywhere alike, and what was repaired is kept by a second repair.

#![no_main]

use bge_core::data::repair::{Repair, RepairOptions, RepairReport, Repaired};
use bge_fuzz::Choice;
use libfuzzer_sys::fuzz_target;

fn repair(choice: Choice, bytes: &[u8], whole: bool) -> (Repaired, RepairReport) {
    let mut repair = Repair::new(RepairOptions {
        drop_repeated_rows: choice.bit(0),
        require_negatives: choice.bit(1),
        ..RepairOptions::default()
    });
    let mut out = Repaired::default();
    for (at, file) in Choice::files(bytes).enumerate() {
        repair.start_file(&format!("f{at}"), &mut out);
        for piece in choice.pieces(file, whole) {
            repair.push(piece, &mut out);
        }
    }
    let report = repair.finish(&mut out);
    (out, report)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = Choice::take(bytes) else {
        return;
    };
    let (out, report) = repair(choice, bytes, true);
    assert_eq!((&out, &report), (&repair(choice, bytes, false).0, &repair(choice, bytes, false).1));
    let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert_eq!((lines(&out.cleaned), lines(&out.quarantine)), (report.kept, report.quarantined));
    // White space around a row may still go; nothing else is found.
    let (_, second) = repair(choice, &out.cleaned, true);
    assert_eq!((second.kept, second.quarantined), (report.kept, 0));
});
