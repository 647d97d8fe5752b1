//! The bytes of a bundle: a part of fixed length, then fields with a tag and a length.
//!
//! All numbers are big-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version of the layout: 1 |
//! | 1 | [`Kind`], which must be the header's |
//! | 16 | session |
//! | 16 | token |
//! | 1, 4, 4 | slot, generation and counter of the grant |
//! | 8, 8 | issued and expires, in milliseconds since 1970 |
//!
//! Fields follow in ascending order of their tags, none twice: a `u16` tag, a `u16` length, the bytes. A tag whose
//! highest bit is set is critical: who doesn't know it refuses the bundle. Others may be passed over, which is how a
//! later version says more. Nothing may follow the last field.

use std::str::FromStr;

use moorline_shared::{Principal, Timestamp};

use super::bundle::{Bundle, Grant, Kind, SessionId, TokenId};

const VERSION: u8 = 1;
const FIXED: usize = 2 + 16 + 16 + 9 + 16;

/// Whoever doesn't know this field has to refuse the bundle.
const CRITICAL: u16 = 0x8000;

/// The fields, in the order in which they stand.
mod tag {
    use super::CRITICAL;

    pub(super) const SUBJECT: u16 = CRITICAL | 1;
    pub(super) const DIRECTORY: u16 = CRITICAL | 2;
    pub(super) const ACCOUNT: u16 = CRITICAL | 3;
    pub(super) const CLIENT: u16 = CRITICAL | 4;
    pub(super) const INCARNATION: u16 = CRITICAL | 5;
}

/// Why bytes are not a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// They end too early, or go on where they should end.
    #[error("the bundle's length doesn't fit what it holds")]
    Length,
    /// Its layout is of another version.
    #[error("the bundle's layout is of version {0}; this version knows 1")]
    Version(u8),
    /// It says another kind than its header.
    #[error("the bundle's kind is not its header's")]
    Kind,
    /// A field is out of order or there twice.
    #[error("field {0:#06x} of the bundle is out of order")]
    Order(u16),
    /// A field that must be understood isn't known here.
    #[error("field {0:#06x} of the bundle is not known to this version and can't be passed over")]
    Unknown(u16),
    /// A field that must be there is not.
    #[error("field {0:#06x} of the bundle is missing")]
    Missing(u16),
    /// A field or a number isn't what it should be.
    #[error("field {0:#06x} of the bundle is not valid")]
    Invalid(u16),
    /// A time is out of bounds.
    #[error("a time of the bundle is out of bounds")]
    Time,
}

/// Appends the bytes of `bundle`.
pub(super) fn write(bundle: &Bundle, into: &mut Vec<u8>) {
    into.extend([VERSION, bundle.kind as u8]);
    into.extend(bundle.session.bytes());
    into.extend(bundle.token.bytes());
    into.push(bundle.grant.slot);
    into.extend(bundle.grant.generation.to_be_bytes());
    into.extend(bundle.grant.counter.to_be_bytes());
    into.extend(bundle.issued.millis().to_be_bytes());
    into.extend(bundle.expires.millis().to_be_bytes());
    field(tag::SUBJECT, bundle.subject.to_string().as_bytes(), into);
    field(tag::DIRECTORY, bundle.directory.as_str().as_bytes(), into);
    field(tag::ACCOUNT, bundle.account.as_str().as_bytes(), into);
    if let Some(client) = &bundle.client {
        field(tag::CLIENT, client.as_str().as_bytes(), into);
    }
    if let Some(incarnation) = bundle.incarnation {
        field(tag::INCARNATION, &incarnation.to_be_bytes(), into);
    }
}

fn field(tag: u16, bytes: &[u8], into: &mut Vec<u8>) {
    let length = u16::try_from(bytes.len()).expect("names and numbers are below 64 KiB");
    into.extend(tag.to_be_bytes());
    into.extend(length.to_be_bytes());
    into.extend(bytes);
}

/// The parts of a bundle: that of fixed length understood, the fields as they stand there.
pub(super) struct Parts<'a> {
    pub(super) kind: Kind,
    pub(super) session: SessionId,
    pub(super) token: TokenId,
    pub(super) grant: Grant,
    pub(super) issued: Timestamp,
    pub(super) expires: Timestamp,
    fields: &'a [u8],
}

/// The parts of the bundle in `bytes`, which came with a header of this kind.
pub(super) fn read(bytes: &[u8], kind: Kind) -> Result<Parts<'_>, LayoutError> {
    let (fixed, fields) = bytes.split_first_chunk::<FIXED>().ok_or(LayoutError::Length)?;
    let mut fixed = Fixed(fixed);
    match fixed.next()? {
        [VERSION] => {}
        [other] => return Err(LayoutError::Version(other)),
    }
    if fixed.next()? != [kind as u8] {
        return Err(LayoutError::Kind);
    }
    Ok(Parts {
        kind,
        session: SessionId::from_bytes(fixed.next()?),
        token: TokenId::from_bytes(fixed.next()?),
        grant: fixed.grant()?,
        issued: fixed.time()?,
        expires: fixed.time()?,
        fields,
    })
}

impl Parts<'_> {
    /// The whole bundle.
    pub(super) fn bundle(&self) -> Result<Bundle, LayoutError> {
        let known = Known::collect(self.fields)?;
        Ok(Bundle {
            kind: self.kind,
            token: self.token,
            session: self.session,
            grant: self.grant,
            issued: self.issued,
            expires: self.expires,
            subject: required::<Principal>(tag::SUBJECT, known.subject)?,
            directory: required(tag::DIRECTORY, known.directory)?,
            account: required(tag::ACCOUNT, known.account)?,
            client: known.client.map(|bytes| text(tag::CLIENT, bytes)).transpose()?,
            incarnation: known.incarnation.map(number).transpose()?,
        })
    }
}

/// What is left of the part of fixed length.
struct Fixed<'a>(&'a [u8]);

impl Fixed<'_> {
    fn next<const N: usize>(&mut self) -> Result<[u8; N], LayoutError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(LayoutError::Length)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn grant(&mut self) -> Result<Grant, LayoutError> {
        let [slot] = self.next()?;
        Ok(Grant {
            slot,
            generation: u32::from_be_bytes(self.next()?),
            counter: u32::from_be_bytes(self.next()?),
        })
    }

    fn time(&mut self) -> Result<Timestamp, LayoutError> {
        let millis = i64::from_be_bytes(self.next()?);
        Timestamp::from_millis(millis).ok_or(LayoutError::Time)
    }
}

/// The fields that this version knows, as they stand there.
#[derive(Default)]
struct Known<'a> {
    subject: Option<&'a [u8]>,
    directory: Option<&'a [u8]>,
    account: Option<&'a [u8]>,
    client: Option<&'a [u8]>,
    incarnation: Option<&'a [u8]>,
}

impl<'a> Known<'a> {
    fn collect(mut fields: &'a [u8]) -> Result<Self, LayoutError> {
        let mut known = Self::default();
        // Ascending is by the tag without its critical bit, so that a field's rank doesn't depend on its weight.
        let mut last = 0;
        while !fields.is_empty() {
            let (tag, bytes, rest) = split_field(fields).ok_or(LayoutError::Length)?;
            let rank = tag & !CRITICAL;
            if rank <= last {
                return Err(LayoutError::Order(tag));
            }
            (last, fields) = (rank, rest);
            match tag {
                tag::SUBJECT => known.subject = Some(bytes),
                tag::DIRECTORY => known.directory = Some(bytes),
                tag::ACCOUNT => known.account = Some(bytes),
                tag::CLIENT => known.client = Some(bytes),
                tag::INCARNATION => known.incarnation = Some(bytes),
                unknown if unknown & CRITICAL != 0 => return Err(LayoutError::Unknown(unknown)),
                _ => {}
            }
        }
        Ok(known)
    }
}

fn split_field(fields: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (tag, rest) = fields.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (bytes, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((u16::from_be_bytes(*tag), bytes, rest))
}

fn required<T: FromStr>(tag: u16, bytes: Option<&[u8]>) -> Result<T, LayoutError> {
    text(tag, bytes.ok_or(LayoutError::Missing(tag))?)
}

fn text<T: FromStr>(tag: u16, bytes: &[u8]) -> Result<T, LayoutError> {
    let text = std::str::from_utf8(bytes).ok();
    let parsed = text.and_then(|text| text.parse().ok());
    parsed.ok_or(LayoutError::Invalid(tag))
}

fn number(bytes: &[u8]) -> Result<u64, LayoutError> {
    let bytes = bytes.try_into();
    bytes
        .map(u64::from_be_bytes)
        .map_err(|_| LayoutError::Invalid(tag::INCARNATION))
}
