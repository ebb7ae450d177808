//! Times the built-in exact search on vectors from a file: a helper of `benches/search_speed.py`.
//!
//! Arguments: a file of `f32` rows, the number of rows that are queries (the first ones), `dim`, `k`, queries passed at
//! once, repetitions, and the number of a GPU to search on, if any. Prints one line of JSON: the seconds of each repetition, and a sum over the lists.

use std::error::Error;
use std::time::Instant;

use bge_core::search::{IndexSpec, Rows, open_index};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(path) = args.next() else {
        return Ok(()); // `cargo bench` and `cargo test` run this without arguments
    };
    let mut number =
        || -> Result<usize, Box<dyn Error>> { Ok(args.next().ok_or("an argument is missing")?.parse()?) };
    let (queries, dim, k, batch, repetitions) = (number()?, number()?, number()?, number()?, number()?);
    let gpu: Option<usize> = args.next().map(|number| number.parse()).transpose()?;
    let bytes = std::fs::read(path)?;
    let data: Vec<f32> = bytes
        .as_chunks()
        .0
        .iter()
        .map(|x| f32::from_le_bytes(*x))
        .collect();
    drop(bytes);
    let (queries, rows) = data
        .split_at_checked(queries * dim)
        .ok_or("the file is too short")?;
    let start = Instant::now();
    let spec = IndexSpec {
        use_gpu: gpu.is_some(),
        gpu: gpu.unwrap_or_default(),
        ..IndexSpec::default()
    };
    let mut index = open_index(Rows::Memory { data: rows, dim }, &spec)?;
    let built = start.elapsed().as_secs_f64();
    let (mut seconds, mut sum) = (Vec::new(), 0.0);
    for _ in 0..repetitions {
        let start = Instant::now();
        for batch in queries.chunks(batch * dim) {
            let lists = index.search(batch, k)?;
            sum += lists
                .iter()
                .filter_map(|list| list.last())
                .map(|hit| hit.score)
                .sum::<f64>();
        }
        seconds.push(start.elapsed().as_secs_f64());
    }
    #[expect(clippy::print_stdout, reason = "this is what it is for")]
    {
        println!("{{\"built\": {built}, \"seconds\": {seconds:?}, \"sum\": {sum}}}");
    }
    Ok(())
}
