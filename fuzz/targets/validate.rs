//! Any bytes make a report, and cut anywhere the same one.

#![no_main]

use bge_core::data::session::FileRole;
use bge_core::data::{DatasetReport, ValidationOptions, ValidationSession};
use bge_fuzz::Choice;
use libfuzzer_sys::fuzz_target;

fn report(choice: Choice, bytes: &[u8], whole: bool) -> DatasetReport {
    let mut options = ValidationOptions::default();
    options.data.same_dataset_within_batch = choice.bit(0);
    options.data.knowledge_distillation = choice.bit(1);
    let mut session = ValidationSession::new(options).expect("these options fit together");
    for (at, file) in Choice::files(bytes).enumerate() {
        session.start_file(FileRole {
            name: format!("f{at}"),
            argument: at,
            from_folder: false,
            no_in_batch_neg: choice.bit(2),
        });
        choice.pieces(file, whole).for_each(|piece| session.push(piece));
    }
    session.finish()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = Choice::take(bytes) else {
        return;
    };
    let (whole, cut) = (report(choice, bytes, true), report(choice, bytes, false));
    assert_eq!(format!("{whole:?}"), format!("{cut:?}"));
});
