//! A cross-encoder in use: pairs of query and passage to scores, from many threads at once.

use std::mem::MaybeUninit;

use bge_core::Reranker;
use bge_core::models::hub::{HubOptions, resolve_model};

use crate::config::{bge_config, other_kind};
use crate::error::{bge_error, required};
use crate::guard::{give, guard};
use crate::handle::Health;
use crate::log;
use crate::runs::use_threads;
use crate::settings::Settings;
use crate::status::bge_status;
use crate::text::{bge_str, fill, fits, texts};

/// A loaded cross-encoder. Any number of threads may score with it at once.
#[derive(Debug)]
pub struct bge_reranker {
    model: Reranker,
    health: Health,
}

/// Opens the model that settings of kind BGE_CONFIG_KIND_RERANK name (reranker_name_or_path).
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_reranker_open(
    config: Option<&bge_config>,
    out: Option<&mut MaybeUninit<*mut bge_reranker>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let config = required(config, "config")?;
        let out = required(out, "out")?;
        let Settings::Rerank(arguments) = config.settings()? else {
            return Err(other_kind("BGE_CONFIG_KIND_RERANK"));
        };
        let arguments = arguments.clone().check_to_open().map_err(bge_error::refused)?;
        use_threads(arguments.threads)?;
        let options = HubOptions::new(arguments.cache_dir.as_ref(), arguments.token.as_ref());
        let folder = resolve_model(&arguments.reranker_name_or_path, &options)?;
        let model = Reranker::from_finetuned(folder, &arguments)?;
        arguments
            .warnings()
            .iter()
            .chain(model.notes())
            .for_each(log::note);
        let health = Health::default();
        give(out, bge_reranker { model, health });
        Ok(())
    })
}

/// Writes the scores of `count` pairs to `out`, which has room for `out_len` numbers: logits, or with the setting
/// `normalize` their sigmoid. The first query goes with the first passage, and so on.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's, and so are its arrays")]
#[expect(
    clippy::missing_safety_doc,
    reason = "the header says what C promises of arrays"
)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bge_reranker_score(
    reranker: Option<&bge_reranker>,
    queries: *const bge_str<'_>,
    passages: *const bge_str<'_>,
    count: usize,
    out: *mut f32,
    out_len: usize,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let reranker = required(reranker, "reranker")?;
        let _entered = reranker.health.enter("reranker")?;
        fits(out_len, count, "out_len")?;
        // SAFETY: what C promises of arrays.
        let queries = unsafe { texts(queries, count, "queries")? };
        // SAFETY: what C promises of arrays.
        let passages = unsafe { texts(passages, count, "passages")? };
        if out.is_null() && count > 0 {
            return Err(bge_error::null("out"));
        }
        let pairs: Vec<(&str, &str)> = queries.into_iter().zip(passages).collect();
        // SAFETY: what C promises of arrays.
        unsafe { fill(out, out_len, &reranker.model.compute_score(&pairs)?, "out") }
    })
}

/// Frees a reranker that no call is using. NULL is fine.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_reranker_free(reranker: Option<Box<bge_reranker>>) {
    drop(reranker);
}
