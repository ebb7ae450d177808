//! The settings that are one word out of a few.

use super::declare::choices;

choices! {
    /// How the token vectors of a text become one vector.
    pub enum PoolingMethod {
        /// The vector of the first token.
        Cls = "cls",
        /// The mean over all tokens.
        Mean = "mean",
        /// The vector of the last token.
        LastToken = "last_token",
    }
}

choices! {
    /// How teacher scores enter the loss.
    pub enum KdLossType {
        /// Cross-entropy of each query's group against the softmax of its teacher scores.
        KlDiv = "kl_div",
        /// BGE-M3's: every passage of the group is the target once, weighted by its teacher probability.
        M3KdLoss = "m3_kd_loss",
    }
}

choices! {
    /// How the learning rate moves over the run; names as in Hugging Face's `SchedulerType`.
    pub enum LrSchedulerType {
        /// Warm-up, then a straight line to zero.
        Linear = "linear",
        /// Warm-up, then a cosine to zero.
        Cosine = "cosine",
        /// Warm-up, then cosines that jump back to the peak.
        CosineWithRestarts = "cosine_with_restarts",
        /// Warm-up, then a polynomial to `lr_end`.
        Polynomial = "polynomial",
        /// The peak throughout, without warm-up.
        Constant = "constant",
        /// Warm-up, then the peak.
        ConstantWithWarmup = "constant_with_warmup",
        /// Warm-up, then the inverse square root of the step.
        InverseSqrt = "inverse_sqrt",
    }
    elsewhere {
        "cosine_with_min_lr",
        "cosine_warmup_with_min_lr",
        "reduce_lr_on_plateau",
        "warmup_stable_decay",
        "greedy",
    }
}

choices! {
    /// When something is done again.
    pub enum IntervalStrategy {
        /// Never.
        No = "no",
        /// Every so many steps.
        Steps = "steps",
        /// At the end of every epoch.
        Epoch = "epoch",
    }
}

choices! {
    /// When a checkpoint is written.
    pub enum SaveStrategy {
        /// Never; only the finished model is written.
        No = "no",
        /// Every `save_steps` steps.
        Steps = "steps",
        /// At the end of every epoch.
        Epoch = "epoch",
        /// Whenever an evaluation is the best so far.
        Best = "best",
    }
}

choices! {
    /// How a number travels from rank to rank.
    pub enum NumberType {
        /// In 32 bits, as it is.
        Fp32 = "fp32",
        /// In 16 bits, five of them for the exponent: up to 65504, with three decimal digits.
        Fp16 = "fp16",
        /// In 16 bits, eight of them for the exponent: as far as 32 bits reach, with two decimal digits.
        Bf16 = "bf16",
    }
}

impl NumberType {
    /// Bytes of a number on its way.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Fp32 => 4,
            Self::Fp16 | Self::Bf16 => 2,
        }
    }
}

choices! {
    /// What the texts to encode are, which decides their instruction and their length.
    pub enum TextRole {
        /// Neither: no instruction, the passage length.
        None = "none",
        /// Queries: the query instruction and length.
        Query = "query",
        /// Passages: the passage instruction and length.
        Passage = "passage",
    }
}
