//! Which parameters weight decay applies to, by their name.

/// Whether weight decay applies to a parameter of a BERT or XLM-RoBERTa encoder.
///
/// Everything but biases and the weights of norms, as `Trainer.get_decay_parameter_names` of transformers
/// 5 has it: no name with `bias`, `layernorm` or `rmsnorm` in it, none with a component `norm` or one that ends
/// in `_norm`. The original TensorFlow names of a norm (`gamma`, `beta`) count as one too.
pub fn decays(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    if ["bias", "layernorm", "rmsnorm"]
        .iter()
        .any(|part| name.contains(part))
    {
        return false;
    }
    !name
        .split('.')
        .any(|part| matches!(part, "norm" | "gamma" | "beta") || part.ends_with("_norm"))
}

#[cfg(test)]
mod tests {
    use super::decays;

    #[test]
    fn weights_decay_and_biases_and_norms_do_not() {
        for name in [
            "embeddings.word_embeddings.weight",
            "embeddings.token_type_embeddings.weight",
            "encoder.layer.0.attention.self.query.weight",
            "roberta.encoder.layer.11.output.dense.weight",
            "pooler.dense.weight",
            "encoder.normal.weight",
        ] {
            assert!(decays(name), "{name}");
        }
        for name in [
            "embeddings.LayerNorm.weight",
            "embeddings.LayerNorm.bias",
            "bert.encoder.layer.3.output.LayerNorm.gamma",
            "bert.encoder.layer.3.output.LayerNorm.beta",
            "encoder.layer.0.attention.self.query.bias",
            "model.norm.weight",
            "layers.0.q_norm.weight",
            "layers.0.input_layernorm.weight",
        ] {
            assert!(!decays(name), "{name}");
        }
    }
}
