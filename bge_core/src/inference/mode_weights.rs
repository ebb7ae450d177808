//! How much each of BGE-M3's three scores counts, by the settings or by the model folder.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::models::write_json;

/// The file of a model folder that says how much each score counts; `bge evaluate --tune_weights` writes it.
///
/// One JSON object: `dense`, `sparse` and `colbert`, numbers from 0 and not all 0, and under `tuned_on`, if there, what they
/// were chosen on.
pub const MODE_WEIGHTS_FILE: &str = "mode_weights.json";

/// How much each score counts in their weighted mean: `weights_for_different_modes`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModeWeights {
    /// Of the dense score.
    pub dense: f32,
    /// Of the sparse score.
    pub sparse: f32,
    /// Of the multi-vector score.
    pub colbert: f32,
}

impl Default for ModeWeights {
    /// Upstream's: all the same.
    fn default() -> Self {
        Self {
            dense: 1.0,
            sparse: 1.0,
            colbert: 1.0,
        }
    }
}

/// Where weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsSource {
    /// `weights_for_different_modes`.
    Settings,
    /// The model folder's [`MODE_WEIGHTS_FILE`].
    Folder,
    /// Neither says it: all count the same.
    Default,
    /// They were just chosen on a development set.
    Tuned,
}

/// The file as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    dense: f32,
    sparse: f32,
    colbert: f32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tuned_on: Option<Value>,
}

impl ModeWeights {
    /// The weights of the settings, where they name three, else those of the folder, else the default.
    pub fn choose(settings: &[f64], folder: &Path) -> Result<(Self, WeightsSource)> {
        if let [dense, sparse, colbert] = *settings {
            let weights = Self {
                dense: dense as f32,
                sparse: sparse as f32,
                colbert: colbert as f32,
            };
            return Ok((weights, WeightsSource::Settings));
        }
        Ok(match Self::read(folder)? {
            Some(weights) => (weights, WeightsSource::Folder),
            None => (Self::default(), WeightsSource::Default),
        })
    }

    /// The weights that a model folder names; `None` where it has no such file.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MODE_WEIGHTS_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let bad = |reason: String| {
            let message = format!(
                "{reason}; the file holds `dense`, `sparse` and `colbert`, numbers from 0 and not all 0. Write it anew with \
                 `bge evaluate --tune_weights`, or remove it to let all count the same"
            );
            Error::new(ErrorKind::ModelFormat, message).with_path(&path)
        };
        let text = files::read_text(&path)?;
        let object: Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        let file: File =
            serde_json::from_value(Value::Object(object)).map_err(|error| bad(error.to_string()))?;
        let weights = Self {
            dense: file.dense,
            sparse: file.sparse,
            colbert: file.colbert,
        };
        if !weights.is_sound() {
            return Err(bad(format!("{:?} are no weights", weights.all())));
        }
        Ok(Some(weights))
    }

    /// Writes them into a model folder; `tuned_on` says what they were chosen on.
    pub fn write(self, folder: &Path, tuned_on: Value) -> Result<()> {
        let Self {
            dense,
            sparse,
            colbert,
        } = self;
        let file = File {
            dense,
            sparse,
            colbert,
            tuned_on: Some(tuned_on),
        };
        write_json(&folder.join(MODE_WEIGHTS_FILE), &file)
    }

    /// Dense, sparse, multi-vector.
    pub const fn all(self) -> [f32; 3] {
        [self.dense, self.sparse, self.colbert]
    }

    /// Whether a mean can be formed with them.
    fn is_sound(self) -> bool {
        let all = self.all();
        all.iter().all(|weight| weight.is_finite() && *weight >= 0.0)
            && all.iter().any(|weight| *weight > 0.0)
    }

    /// The weighted mean of the scores that are there (dense, sparse, multi-vector), in that order; 0 where none of them
    /// counts.
    pub fn mean(self, scores: [Option<f64>; 3]) -> f64 {
        let (mut sum, mut total) = (0.0, 0.0);
        for (score, weight) in scores.into_iter().zip(self.all().map(f64::from)) {
            if let Some(score) = score {
                sum += score * weight;
                total += weight;
            }
        }
        if total > 0.0 { sum / total } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_names_weights_and_a_broken_file_is_one_error() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        assert_eq!(
            ModeWeights::choose(&[], at).unwrap(),
            (ModeWeights::default(), WeightsSource::Default)
        );
        let weights = ModeWeights {
            dense: 0.4,
            sparse: 0.2,
            colbert: 0.4,
        };
        weights.write(at, serde_json::json!({"split": "dev"})).unwrap();
        let text = std::fs::read_to_string(at.join(MODE_WEIGHTS_FILE)).unwrap();
        assert!(text.contains("0.4") && !text.contains("0.40"), "{text}");
        assert_eq!(
            ModeWeights::choose(&[], at).unwrap(),
            (weights, WeightsSource::Folder)
        );
        let (chosen, source) = ModeWeights::choose(&[1.0, 0.0, 0.0], at).unwrap();
        assert_eq!((chosen.all(), source), ([1.0, 0.0, 0.0], WeightsSource::Settings));
        for (text, expected) in [
            ("{", "EOF"),
            ("[1, 2, 3]", "a map"),
            (r#"{"dense": 1, "sparse": 1}"#, "colbert"),
            (r#"{"dense": 1, "sparse": 1, "colbert": 1, "cls": 2}"#, "cls"),
            (r#"{"dense": -1, "sparse": 1, "colbert": 1}"#, "-1"),
            (r#"{"dense": 0, "sparse": 0, "colbert": 0}"#, "no weights"),
            (r#"{"dense": NaN, "sparse": 0, "colbert": 1}"#, "expected value"),
            (r#"{"dense": 1e39, "sparse": 0, "colbert": 1}"#, "inf"),
            (r#"{"dense": "1", "sparse": 0, "colbert": 1}"#, "invalid type"),
        ] {
            std::fs::write(at.join(MODE_WEIGHTS_FILE), text).unwrap();
            let error = ModeWeights::read(at).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ModelFormat);
            assert!(error.path().is_some());
            let said = error.to_string();
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn a_mean_is_over_the_scores_that_are_there() {
        let weights = ModeWeights {
            dense: 1.0,
            sparse: 3.0,
            colbert: 0.0,
        };
        assert_eq!(weights.mean([Some(2.0), Some(6.0), None]), 5.0);
        assert_eq!(weights.mean([Some(2.0), None, Some(9.0)]), 2.0);
        assert_eq!(weights.mean([None, None, Some(9.0)]), 0.0);
    }
}
