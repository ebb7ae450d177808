//! The queue joins requests, gives everybody their own bits, and keeps one's error from the others.

use std::sync::Barrier;
use std::time::Duration;

use bge_core::Embedder;
use bge_core::config::{EmbedArguments, TextRole};
use bge_core::inference::{EncodeQueue, QueueLimits};
use bge_tests::fixture;

fn embedder() -> Embedder {
    Embedder::from_finetuned(fixture("parity/models/bert"), &EmbedArguments::default()).unwrap()
}

fn limits(max_batch: usize, millis: u64) -> QueueLimits {
    QueueLimits {
        max_batch,
        max_wait: Duration::from_millis(millis),
    }
}

#[test]
fn requests_that_come_together_are_one_batch_and_get_their_own_bits() {
    let queue = EncodeQueue::new(embedder(), limits(8, 10_000));
    let all = Barrier::new(8);
    std::thread::scope(|threads| {
        for i in 0..8 {
            let (queue, all) = (&queue, &all);
            threads.spawn(move || {
                let text = format!("{} moons", "many ".repeat(i));
                let want = queue.embedder().encode_queries(&[&text]).unwrap();
                all.wait();
                assert_eq!(queue.encode(TextRole::Query, &[&text]).unwrap(), want);
            });
        }
    });
    // Ten seconds did not pass: the eighth request filled the batch.
    assert_eq!(queue.batches(), 1);
}

#[test]
fn a_lonely_request_waits_no_longer_than_it_must() {
    let queue = EncodeQueue::new(embedder(), limits(64, 20));
    let texts = ["a", "b"];
    let want = queue.embedder().encode_corpus(&texts).unwrap();
    assert_eq!(queue.encode(TextRole::Passage, &texts).unwrap(), want);
    assert_eq!(queue.batches(), 1);
}

#[test]
fn no_texts_and_more_than_a_batch_are_both_fine() {
    let queue = EncodeQueue::new(embedder(), limits(2, 0));
    assert!(queue.encode::<&str>(TextRole::None, &[]).unwrap().is_empty());
    assert_eq!(queue.batches(), 0);
    let texts: Vec<String> = (0..50).map(|i| format!("text {i}")).collect();
    let vectors = queue.encode(TextRole::None, &texts).unwrap();
    assert_eq!(vectors, queue.embedder().encode(&texts).unwrap());
    assert_eq!(queue.batches(), 1);
}
