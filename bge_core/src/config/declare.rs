//! How settings are declared: one line gives the field, its default, its documentation and its text form.
//!
//! `arguments!` turns
//!
//! ```text
//! arguments! {
//!     /// How the loss is computed.
//!     pub struct LossArguments {
//!         ["loss"]
//!         /// Divides every score before the softmax.
//!         temperature: f64 = 0.02;
//!     }
//! }
//! ```
//!
//! into the struct, its `Default`, and an [`Arguments`](crate::config::Arguments) with get and set by name. A word after the default marks
//! the field: `required` (no run without it) or `ours` (FlagEmbedding and Hugging Face do not know it).

/// Declares a struct of settings; the module's head shows how.
macro_rules! arguments {
    (
        $(#[doc = $about:literal])+
        pub struct $struct:ident {
            $(
                [$group:literal]
                $(
                    $(#[doc = $help:literal])+
                    $name:ident: $type:ty = $default:expr $(, $mark:ident)*;
                )+
            )+
        }
        $(aliases { $($alias:literal => $target:literal),+ $(,)? })?
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $struct {
            $($(
                $(#[doc = $help])+
                pub $name: $type,
            )+)+
        }

        impl Default for $struct {
            fn default() -> Self {
                Self { $($($name: $default,)+)+ }
            }
        }

        impl $crate::config::Arguments for $struct {
            fn fields() -> &'static [$crate::config::FieldDoc] {
                static FIELDS: std::sync::LazyLock<Vec<$crate::config::FieldDoc>> =
                    std::sync::LazyLock::new(|| vec![$($(
                        $crate::config::FieldDoc::of::<$type>(
                            stringify!($name),
                            $group,
                            &[$($help),+],
                            &$default,
                            &[$(stringify!($mark)),*],
                        ),
                    )+)+]);
                &FIELDS
            }

            fn get(&self, name: &str) -> Option<serde_json::Value> {
                match name {
                    $($(stringify!($name) => Some($crate::config::field::Setting::to_json(&self.$name)),)+)+
                    _ => None,
                }
            }

            fn set(&mut self, name: &str, value: &serde_json::Value) -> $crate::error::Result<()> {
                match name {
                    $($(stringify!($name) => $crate::config::field::store(&mut self.$name, name, value),)+)+
                    _ => Err($crate::config::unknown::error::<Self>(name)),
                }
            }

            $(fn alias(name: &str) -> Option<&'static str> {
                match name {
                    $($alias => Some($target),)+
                    _ => None,
                }
            })?
        }
    };
}
pub(crate) use arguments;

/// Declares a struct made of structs of settings; names are unique over all of them.
macro_rules! sections {
    (
        $(#[doc = $about:literal])+
        pub struct $struct:ident {
            $(
                $(#[doc = $help:literal])+
                $part:ident: $type:ty,
            )+
        }
        $(foreign $foreign:path)?
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $struct {
            $(
                $(#[doc = $help])+
                pub $part: $type,
            )+
        }

        impl $crate::config::Arguments for $struct {
            fn fields() -> &'static [$crate::config::FieldDoc] {
                static FIELDS: std::sync::LazyLock<Vec<$crate::config::FieldDoc>> =
                    std::sync::LazyLock::new(|| {
                        [$(<$type as $crate::config::Arguments>::fields()),+].concat()
                    });
                &FIELDS
            }

            fn get(&self, name: &str) -> Option<serde_json::Value> {
                None$(.or_else(|| self.$part.get(name)))+
            }

            fn set(&mut self, name: &str, value: &serde_json::Value) -> $crate::error::Result<()> {
                $(if <$type as $crate::config::Arguments>::field(name).is_some() {
                    return self.$part.set(name, value);
                })+
                Err($crate::config::unknown::error::<Self>(name))
            }

            fn alias(name: &str) -> Option<&'static str> {
                None$(.or_else(|| <$type as $crate::config::Arguments>::alias(name)))+
            }

            $(fn foreign() -> &'static [$crate::config::Foreign] {
                $foreign
            })?
        }
    };
}
pub(crate) use sections;

/// Declares an enum whose variants are words of a setting; the first variant is the default.
macro_rules! choices {
    (
        $(#[doc = $about:literal])+
        pub enum $enum:ident {
            $(
                $(#[doc = $help:literal])+
                $variant:ident = $word:literal,
            )+
        }
        $(elsewhere { $($elsewhere:literal),+ $(,)? })?
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $enum {
            $(
                $(#[doc = $help])+
                $variant,
            )+
        }

        impl $enum {
            /// Every variant, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word it is written with.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl Default for $enum {
            fn default() -> Self {
                Self::ALL[0]
            }
        }

        impl std::fmt::Display for $enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $enum {
            type Err = $crate::error::Error;

            /// Reads the word, in any case.
            fn from_str(text: &str) -> $crate::error::Result<Self> {
                <Self as $crate::config::field::Setting>::from_json(&serde_json::Value::from(text)).map_err(
                    |message| $crate::error::Error::new($crate::error::ErrorKind::InvalidConfig, message),
                )
            }
        }

        impl serde::Serialize for $enum {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl $crate::config::field::Setting for $enum {
            const KIND: $crate::config::FieldKind = $crate::config::FieldKind::Choice;
            const CHOICES: &'static [&'static str] = &[$($word),+];

            fn from_json(value: &serde_json::Value) -> Result<Self, String> {
                $crate::config::field::choice(value, Self::CHOICES, &[$($($elsewhere),+)?])
                    .and_then(|index| Self::ALL.get(index).copied().ok_or_else(String::new))
            }

            fn to_json(&self) -> serde_json::Value {
                serde_json::Value::from(self.as_str())
            }
        }
    };
}
pub(crate) use choices;
