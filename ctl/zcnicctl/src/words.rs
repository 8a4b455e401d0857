//! Words of the protocol as values on the command line.

use std::fmt;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::{
    Deserializer,
    de::{self, DeserializeOwned, Visitor},
    forward_to_deserialize_any,
};
use serde_json::json;

/// A parser of the words of an enumeration; help and completions list them.
pub(crate) fn parser<T>() -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words::<T>().iter().map(PossibleValue::new))
        .try_map(|word| serde_json::from_value::<T>(json!(word)))
}

/// The names of an enumeration's variants, as JSON has them.
pub(crate) fn words<T: DeserializeOwned>() -> &'static [&'static str] {
    match T::deserialize(Names) {
        Err(Listed(names)) => names,
        Ok(_) => &[],
    }
}

/// Gives a type that is an enumeration nothing, and reports the names that it knows.
struct Names;

/// The names, in place of an error.
#[derive(Debug)]
struct Listed(&'static [&'static str]);

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.join(", ").fmt(f)
    }
}

impl std::error::Error for Listed {}

impl de::Error for Listed {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}

impl<'de> Deserializer<'de> for Names {
    type Error = Listed;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Listed> {
        Err(Listed(variants))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Listed> {
        Err(Listed(&[]))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use zcnic_ctl::{Direction, EventKind};

    use super::*;

    #[test]
    fn all_words_of_an_enumeration_are_listed() {
        assert_eq!(words::<Direction>(), ["rx", "tx", "command"]);
        assert_eq!(words::<EventKind>().len(), EventKind::ALL.len());
        assert_eq!(words::<String>(), [""; 0]);
    }
}
