//! Which leading dimensions are trained (Matryoshka representation learning, Kusupati et al. 2022).

use crate::error::{Result, bail};
use crate::issue::{Issue, Severity};

/// The dimensions to average the loss over; those above `width` are cut to it, as upstream does.
pub(super) fn dims(listed: Option<&[usize]>, width: usize) -> Vec<usize> {
    match listed {
        Some(listed) => listed.iter().map(|&dim| dim.min(width)).collect(),
        None => vec![width],
    }
}

/// Refuses an empty list and a zero; warns of dimensions above `width`.
pub(super) fn check(listed: Option<&[usize]>, width: usize) -> Result<Vec<Issue>> {
    let Some(listed) = listed else {
        return Ok(Vec::new());
    };
    if listed.is_empty() || listed.contains(&0) {
        bail!(
            InvalidConfig,
            "`use_mrl` needs `mrl_dims`: one or more dimensions from 1 to {width}, got {listed:?}"
        );
    }
    let warn = |&dim: &usize| {
        Issue::new(
            "loss.mrl_dim_clamped",
            Severity::Warning,
            format!("{dim} is above the model's {width} dimensions; {width} is used instead"),
        )
        .on_field("mrl_dims")
    };
    Ok(listed.iter().filter(|&&dim| dim > width).map(warn).collect())
}
