//! The bytes that a signature is made of: the signature base (RFC 9421, section 2.5).

use std::fmt::Write as _;

use super::field::{FieldError, byte_sequences, written_bytes};
use super::input::{Component, Input};

/// A request as its signer made it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `GET`, `PUT`, `POST` or `DELETE`.
    pub method: &'a str,
    /// The authority that it is meant for.
    pub authority: &'a str,
    /// The path with the query, as they stand in the request.
    pub target: &'a str,
    /// Its fields, by their names in lower case.
    pub fields: &'a [(&'a str, &'a str)],
}

/// Why there is nothing to sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaseError {
    /// The request has no such component.
    #[error("the request has no {0}")]
    Missing(String),
    /// Its value can't stand on one line.
    #[error("{0} is not printable ASCII")]
    Unprintable(String),
    /// It is a derived component that isn't known here, or a member of a field that isn't a dictionary of signatures.
    #[error("{0} can't be signed here")]
    Unknown(String),
    /// The field of which one member is covered can't be read.
    #[error("{0} can't be read: {1}")]
    Field(String, FieldError),
}

impl Request<'_> {
    /// All values of a field, in one.
    pub fn field(&self, name: &str) -> Option<String> {
        let lines = self.fields.iter().filter(|(known, _)| *known == name);
        let values: Vec<&str> = lines.map(|(_, value)| value.trim()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// What a signature with this input is made of.
    pub fn base(&self, input: &Input) -> Result<String, BaseError> {
        let mut base = String::with_capacity(512);
        for component in input.components() {
            let value = self.value(component)?;
            if !value.bytes().all(|b| matches!(b, b' '..=b'~' | b'\t')) {
                return Err(BaseError::Unprintable(component.to_string()));
            }
            // Writing to a string doesn't fail.
            let _ = writeln!(base, "{component}: {value}");
        }
        let _ = write!(base, "\"@signature-params\": {input}");
        Ok(base)
    }

    fn value(&self, component: &Component) -> Result<String, BaseError> {
        let missing = || BaseError::Missing(component.to_string());
        if let Some(key) = component.key() {
            let field = self.field(component.name()).ok_or_else(missing)?;
            return member(component, &field, key)?.ok_or_else(missing);
        }
        let (path, query) = self.target.split_once('?').unwrap_or((self.target, ""));
        match component.name() {
            "@method" => Ok(self.method.to_owned()),
            "@authority" => Ok(self.authority.to_ascii_lowercase()),
            "@path" if path.is_empty() => Ok("/".to_owned()),
            "@path" => Ok(path.to_owned()),
            "@query" => Ok(format!("?{query}")),
            name if name.starts_with('@') => Err(BaseError::Unknown(component.to_string())),
            name => self.field(name).ok_or_else(missing),
        }
    }
}

/// One signature of the field `Signature`, as it is written there.
fn member(component: &Component, field: &str, key: &str) -> Result<Option<String>, BaseError> {
    if component.name() != super::SIGNATURE {
        return Err(BaseError::Unknown(component.to_string()));
    }
    let signatures =
        super::signatures(field).map_err(|error| BaseError::Field(component.name().to_owned(), error))?;
    let found = signatures.into_iter().find(|(label, _)| label == key);
    Ok(found.map(|(_, bytes)| written_bytes(&bytes)))
}

/// The signatures in a field `Signature`, by their labels.
pub fn signatures(field: &str) -> Result<Vec<(String, Vec<u8>)>, FieldError> {
    byte_sequences(field)
}
