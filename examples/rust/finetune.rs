//! Fine-tunes from a command line of FlagEmbedding's: `finetune ['torchrun ... -m FlagEmbedding... --flags']`.
//!
//! Without one it trains a tiny model on toy data, into a folder for temporary files.

#![allow(clippy::print_stdout, reason = "a program that prints")]

use bge_core::config::{config_error, from_command_line, from_words};
use bge_core::train::{Control, TrainEvent, Trainer};
use bge_core::{Issue, Result};
use bge_examples::{toy_data, toy_model};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let line = match words.as_slice() {
        [] => from_command_line(&toy_command_line()),
        [text] => from_command_line(text), // one quoted text, as pasted
        words => from_words(words),        // words that a shell has split
    };

    // Nothing is lost on the way: what bge does differently is said as a warning, what it cannot do is an error.
    let line = line.map_err(|issues| refused(&issues))?;
    for warning in &line.config.warnings {
        println!("{warning}");
    }
    let config = line
        .config
        .arguments
        .check_for(line.module)
        .map_err(|issues| refused(&issues))?;

    let mut trainer = Trainer::new(config)?;
    println!(
        "{} rows, {} steps",
        trainer.dataset().len(),
        trainer.state().max_steps
    );

    // A callback hears everything that happens, and may stop the run: it ends with a checkpoint to resume from.
    let mut show = |event: &TrainEvent<'_>| {
        match event {
            TrainEvent::Note(note) => println!("{note}"),
            TrainEvent::Step { state, report, .. } => println!(
                "step {:>3}  loss {:.4}  gradient {:.3}  rate {:.2e}",
                state.global_step, report.loss, report.grad_norm, report.learning_rate
            ),
            TrainEvent::Saved(folder) => println!("wrote {}", folder.display()),
            _ => {}
        }
        Control::Continue
    };
    let report = trainer.run(&mut [&mut show])?;
    println!("the model is in {}", report.folder.display());
    Ok(())
}

/// Says everything that is wrong with the settings; the error itself names the first.
fn refused(issues: &[Issue]) -> bge_core::Error {
    for issue in issues {
        println!("{issue}");
    }
    config_error(issues)
}

fn toy_command_line() -> String {
    format!(
        "torchrun --nproc_per_node 1 \\
            -m FlagEmbedding.finetune.embedder.encoder_only.base \\
            --model_name_or_path '{}' \\
            --train_data '{}' \\
            --train_group_size 4 \\
            --query_max_len 32 \\
            --passage_max_len 64 \\
            --output_dir '{}' \\
            --overwrite_output_dir \\
            --learning_rate 1e-3 \\
            --num_train_epochs 8 \\
            --per_device_train_batch_size 8 \\
            --warmup_ratio 0.1 \\
            --temperature 0.02 \\
            --sentence_pooling_method cls \\
            --normalize_embeddings True",
        toy_model().display(),
        toy_data().display(),
        std::env::temp_dir().join("bge-toy-model").display(),
    )
}
