//! Validation of training data: files on disk, or bytes as they come.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use bge_core::data::preflight::validate_files;
use bge_core::data::session::{FileRole, ValidationOptions, ValidationSession};
use bge_core::models::hub::{HubOptions, resolve_model};
use bge_core::tokenize::Tokenizer;

use crate::config::{bge_config, other_kind};
use crate::error::{Outcome, bge_error, json_text, required};
use crate::event::{Listener, bge_event_fn};
use crate::guard::{give, guard};
use crate::handle::{Health, bge_text, give_text};
use crate::settings::Settings;
use crate::status::bge_status;
use crate::text::{bge_str, bytes as read_bytes};

/// A validation of bytes under way; one thread at a time.
#[derive(Debug)]
pub struct bge_validator {
    /// Gone once the report is made.
    session: Option<ValidationSession<'static>>,
    health: Health,
}

fn options(config: &bge_config) -> Outcome<ValidationOptions> {
    let Settings::Finetune(settings, module) = config.settings()? else {
        return Err(other_kind(
            "BGE_CONFIG_KIND_FINETUNE or BGE_CONFIG_KIND_FINETUNE_RERANKER",
        ));
    };
    Ok(ValidationOptions {
        module: *module,
        world_size: settings.training.world_size(),
        data: settings.data.clone(),
        training: settings.training.clone(),
        ..ValidationOptions::default()
    })
}

/// Validates the files of the setting train_data and gives the report as JSON; where eval_dataset is set, it is compared with.
/// With model_name_or_path, tokens are counted too. `config` is of kind FINETUNE or FINETUNE_RERANKER. Bad data is
/// an answer here, not an error: the report's verdict is "errors".
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_validate(
    config: Option<&bge_config>,
    on_event: bge_event_fn,
    user_data: *mut c_void,
    out: Option<&mut MaybeUninit<*mut bge_text>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let config = required(config, "config")?;
        let out = required(out, "out")?;
        let options = options(config)?;
        let Settings::Finetune(settings, _) = config.settings()? else {
            return Err(other_kind("BGE_CONFIG_KIND_FINETUNE"));
        };
        let model = &settings.model;
        let name = model.tokenizer_name.as_ref().unwrap_or(&model.model_name_or_path);
        let tokenizer = if name.is_empty() {
            None
        } else {
            let options = HubOptions::new(model.cache_dir.as_ref(), model.token.as_ref());
            Some(Tokenizer::open(resolve_model(name, &options)?)?)
        };
        let count = tokenizer
            .as_ref()
            .map(|tokenizer| move |text: &str| tokenizer.count(text).unwrap_or(0));
        let listener = Listener {
            call: on_event,
            user_data,
        };
        let counter = count.as_ref().map(|count| count as &dyn Fn(&str) -> usize);
        let report = validate_files(options, counter, |at| {
            listener.progress("validate", at.progress.bytes, at.total_bytes)
        })?;
        give_text(out, json_text(&report)?);
        Ok(())
    })
}

/// Begins a validation of bytes that come in pieces, as one file of the name `name`.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_validator_new(
    config: Option<&bge_config>,
    name: bge_str<'_>,
    out: Option<&mut MaybeUninit<*mut bge_validator>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let config = required(config, "config")?;
        let out = required(out, "out")?;
        let mut session = ValidationSession::new(options(config)?)?;
        session.start_file(FileRole {
            name: name.text("name")?.to_owned(),
            ..FileRole::default()
        });
        let session = Some(session);
        let health = Health::default();
        give(out, bge_validator { session, health });
        Ok(())
    })
}

/// Takes the next piece, cut anywhere.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's, and so are its arrays")]
#[expect(
    clippy::missing_safety_doc,
    reason = "the header says what C promises of arrays"
)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bge_validator_push(
    validator: Option<&mut bge_validator>,
    bytes: *const u8,
    len: usize,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let validator = required(validator, "validator")?;
        let _entered = validator.health.enter("validator")?;
        let session = required(validator.session.as_mut(), "validator").map_err(|_| finished())?;
        // SAFETY: what C promises of arrays.
        session.push(unsafe { read_bytes(bytes, len, "bytes")? });
        Ok(())
    })
}

fn finished() -> Box<bge_error> {
    bge_error::argument("validator", "it has given its report; make a new one")
}

/// Ends the validation and gives the report as JSON.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_validator_finish(
    validator: Option<&mut bge_validator>,
    out: Option<&mut MaybeUninit<*mut bge_text>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let validator = required(validator, "validator")?;
        let out = required(out, "out")?;
        let _entered = validator.health.enter("validator")?;
        let session = validator.session.take().ok_or_else(finished)?;
        give_text(out, json_text(&session.finish())?);
        Ok(())
    })
}

/// Frees a validator, finished or not. NULL is fine.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_validator_free(validator: Option<Box<bge_validator>>) {
    drop(validator);
}
