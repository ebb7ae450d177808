//! The activations of the feed-forward block and their derivatives.

use std::mem::MaybeUninit;

use super::buffer::write_each;
use super::math;

/// An element-wise activation, by its Hugging Face name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `gelu`: x Φ(x), exact (Hendrycks and Gimpel 2016).
    Gelu,
    /// `gelu_new`, `gelu_pytorch_tanh`: the tanh approximation of gelu.
    GeluTanh,
    /// `relu`.
    Relu,
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

impl Activation {
    /// Reads a Hugging Face name (`hidden_act`).
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "relu" => Some(Self::Relu),
            _ => None,
        }
    }

    /// Adds the bias to each row in `rows` of width `bias.len()` and applies the activation, in place.
    pub(crate) fn bias_and_apply(self, rows: &mut [f32], bias: &[f32]) {
        math::vectorized!({
            for row in rows.chunks_exact_mut(bias.len()) {
                match self {
                    Self::Gelu => each(row, bias, |x| x * math::normal(x).0),
                    Self::GeluTanh => each(row, bias, |x| {
                        0.5 * x * (1.0 + math::tanh(SQRT_2_OVER_PI * (x + CUBIC * x * x * x)))
                    }),
                    Self::Relu => each(row, bias, |x| if x < 0.0 { 0.0 } else { x }),
                }
            }
        });
    }

    /// The activation of a slice of inputs, into `out`.
    pub(crate) fn apply<'a>(self, out: &'a mut [MaybeUninit<f32>], x: &[f32]) -> &'a mut [f32] {
        math::vectorized!(match self {
            Self::Gelu => map(out, x, |x| x * math::normal(x).0),
            Self::GeluTanh => map(out, x, |x| {
                0.5 * x * (1.0 + math::tanh(SQRT_2_OVER_PI * (x + CUBIC * x * x * x)))
            }),
            Self::Relu => map(out, x, |x| if x < 0.0 { 0.0 } else { x }),
        })
    }

    /// Multiplies the gradient of the output by the derivative at `x`, in place.
    pub(crate) fn backward(self, gradient: &mut [f32], x: &[f32]) {
        math::vectorized!(match self {
            Self::Gelu => scale(gradient, x, |x| {
                let (cdf, density) = math::normal(x);
                cdf + x * density
            }),
            Self::GeluTanh => scale(gradient, x, |x| {
                let t = math::tanh(SQRT_2_OVER_PI * (x + CUBIC * x * x * x));
                let slope = SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope
            }),
            Self::Relu => scale(gradient, x, |x| if x > 0.0 { 1.0 } else { 0.0 }),
        });
    }
}

#[inline(always)]
fn each(row: &mut [f32], bias: &[f32], f: impl Fn(f32) -> f32) {
    for (x, b) in row.iter_mut().zip(bias) {
        *x = f(*x + b);
    }
}

#[inline(always)]
fn map<'a>(out: &'a mut [MaybeUninit<f32>], x: &[f32], f: impl Fn(f32) -> f32) -> &'a mut [f32] {
    let x = &x[..out.len()];
    write_each(out, |i| f(x[i]))
}

#[inline(always)]
fn scale(gradient: &mut [f32], x: &[f32], f: impl Fn(f32) -> f32) {
    for (g, &x) in gradient.iter_mut().zip(x) {
        *g *= f(x);
    }
}
