//! Which model is fine-tuned.

use super::declare::arguments;

arguments! {
    /// The model arguments of FlagEmbedding (`AbsEmbedderModelArguments`, `AbsRerankerModelArguments`).
    pub struct ModelArguments {
        ["model"]
        /// The model to start from: a folder, or a name on the Hugging Face hub.
        model_name_or_path: String = String::new(), required;
        /// FlagEmbedding's flag for another config. The model's own is always read, so it has no effect.
        config_name: Option<String> = None;
        /// The folder or name of the tokenizer, if it is not the model's own.
        tokenizer_name: Option<String> = None;
        /// Where models from the hub are kept.
        cache_dir: Option<String> = None;
        /// Run code shipped with a model. There is no Python here to run it, so only False is accepted.
        trust_remote_code: bool = false;
        /// Use the fast tokenizer. There is no other one here.
        use_fast_tokenizer: bool = true;
        /// The access token for private models on the hub.
        token: Option<String> = None;

        ["reranker_training"]
        /// What kind of reranker it is: `encoder`, or `decoder`, which this version does not train.
        model_type: String = "encoder".to_owned();
    }
}
