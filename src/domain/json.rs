//! JSON as our users write it: read strictly, and with the path of every mistake.
//!
//! Repeated members, arrays where objects are meant, text after the document and numbers that would lose digits are
//! refused. Canonical text for hashing: members sorted by name, no blanks, integers exact.

use std::{borrow::Cow, fmt, marker::PhantomData, ops::Deref};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeOwned, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct Mistake {
    /// The member's path, such as `spec.product.create.productName`; `(document)` for the whole.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Reads a document as a value, refusing repeated members at any depth.
///
/// # Errors
/// [`Mistake`] names the path and the problem.
pub fn read(bytes: &[u8]) -> Result<Value, Mistake> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let strict: Strict = serde_path_to_error::deserialize(&mut deserializer).map_err(mistake)?;
    deserializer.end().map_err(|error| Mistake { path: "(document)".to_owned(), problem: error.to_string() })?;
    Ok(strict.0)
}

/// Reads a value into a type, with the path of the first mistake below `root`.
///
/// # Errors
/// [`Mistake`] names the path and the problem.
pub fn decode<T: DeserializeOwned>(root: &str, value: Value) -> Result<T, Mistake> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let inner = mistake(error);
        let path = match (root.is_empty(), inner.path.as_str()) {
            (true, _) => inner.path,
            (false, "(document)") => root.to_owned(),
            (false, path) if path.starts_with('[') => format!("{root}{path}"),
            (false, path) => format!("{root}.{path}"),
        };
        Mistake { path, problem: inner.problem }
    })
}

fn mistake(error: serde_path_to_error::Error<serde_json::Error>) -> Mistake {
    let path = error.path().to_string();
    let path = if path == "." || path.is_empty() { "(document)".to_owned() } else { path };
    let problem = error.into_inner().to_string();
    Mistake { path, problem }
}

/// The text that is hashed: members sorted by name, no blanks, integers exact.
///
/// Not RFC 8785, which rounds integers above 2^53 and would make one product of two.
#[must_use]
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            text.push('{');
            for (n, (name, member)) in sorted.into_iter().enumerate() {
                if n > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write_canonical(member, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => text.push_str(&value.to_string()),
    }
}

/// A value read strictly.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(Value::Bool(value)))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Strict, E> {
        // An integer that fits neither u64 nor i64 arrives here and has lost digits.
        if value.fract() == 0.0 && value.abs() >= 9_007_199_254_740_992.0 {
            return Err(E::custom("a number too large to be kept exactly; write it as text"));
        }
        Number::from_f64(value).map(|number| Strict(Value::Number(number))).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(Value::String(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Strict, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Strict(Value::Array(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Strict, A::Error> {
        let mut members = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            if members.contains_key(&name) {
                return Err(de::Error::custom(format!("member {name:?} is there twice")));
            }
            let Strict(member) = access.next_value()?;
            members.insert(name, member);
        }
        Ok(Strict(Value::Object(members)))
    }
}

/// A struct that must be written as an object: serde would take an array of its fields in order, too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Object<T>(pub T);

/// In a schema it is what it holds: every struct is an object there.
impl<T: schemars::JsonSchema> schemars::JsonSchema for Object<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(generator)
    }
}

impl<T> Deref for Object<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Serialize> Serialize for Object<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<T, A::Error> {
        T::deserialize(de::value::MapAccessDeserializer::new(access))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_repeated_member_is_refused_with_its_path() {
        let mistake = read(br#"{"spec":{"a":[1,{"b":1,"b":2}]}}"#).unwrap_err();
        assert_eq!(mistake.path, "spec.a[1]");
        assert!(mistake.problem.contains(r#"member "b" is there twice"#), "{mistake}");
    }

    #[test]
    fn text_behind_the_document_and_deep_nesting_are_refused() {
        assert!(read(b"{} x").is_err());
        let deep = [b"[".repeat(10_000), b"]".repeat(10_000)].concat();
        assert!(read(&deep).unwrap_err().problem.contains("recursion limit"));
    }

    #[test]
    fn large_integers_stay_exact_and_larger_ones_are_refused() {
        let value = read(br#"{"b": 18446744073709551615, "a": 14300000000000001}"#).unwrap();
        assert_eq!(canonical(&value), r#"{"a":14300000000000001,"b":18446744073709551615}"#);
        assert!(read(b"18446744073709551616").unwrap_err().problem.contains("too large"));
    }

    #[test]
    fn an_array_is_no_object() {
        #[derive(Debug, Deserialize)]
        struct Pair {
            #[expect(dead_code, reason = "only its shape matters here")]
            a: u8,
        }
        let inner = decode::<Object<Pair>>("spec", serde_json::json!([1])).unwrap_err();
        assert!(inner.problem.contains("an object"), "{inner}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = read(&bytes);
        }

        #[test]
        fn canonical_text_reads_back_as_itself(numbers in proptest::collection::btree_map(".{0,8}", any::<i64>(), 0..6)) {
            let value = serde_json::to_value(&numbers).unwrap();
            let text = canonical(&value);
            prop_assert_eq!(canonical(&read(text.as_bytes()).unwrap()), text);
        }
    }
}
