//! What a signature is made over, and what it says of itself: a member of `Signature-Input`.

use std::fmt;

use super::field::{Cursor, FieldError, dictionary, write_string};

/// The most components that a signature covers.
const MAX_COMPONENTS: usize = 16;

/// A part of a message: a field by its name in lower case, or one that begins with `@` and is derived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    name: String,
    /// Which member, where the field is a dictionary and only that member is meant.
    key: Option<String>,
}

impl Component {
    /// The whole of it.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            key: None,
        }
    }

    /// One member of a field that is a dictionary.
    pub fn member(name: &str, key: &str) -> Self {
        Self {
            key: Some(key.to_owned()),
            ..Self::new(name)
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which member is meant.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    fn read(from: &mut Cursor<'_>) -> Result<Self, FieldError> {
        let mut component = Self::new(&from.string()?);
        if from.eat(';') {
            if from.key()? != "key" {
                return Err(FieldError::Unknown);
            }
            from.expect('=')?;
            component.key = Some(from.string()?);
        }
        Ok(component)
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_string(&self.name, f)?;
        match &self.key {
            None => Ok(()),
            Some(key) => {
                f.write_str(";key=")?;
                write_string(key, f)
            }
        }
    }
}

macro_rules! parameters {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $type:ty, $read:path, $get:ident -> $got:ty = $as:expr;)*) => {
        /// What a signature says of itself.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Parameter {
            $($(#[$doc])* $name($type),)*
        }

        impl Parameter {
            fn read(from: &mut Cursor<'_>) -> Result<Self, FieldError> {
                let name = from.key()?;
                from.expect('=')?;
                match name {
                    $($text => $read(from).map(Self::$name),)*
                    _ => Err(FieldError::Unknown),
                }
            }
        }

        impl fmt::Display for Parameter {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name(value) => write!(f, concat!($text, "={}"), value),)*
                }
            }
        }

        impl Input {
            $($(#[$doc])*
            pub fn $get(&self) -> Option<$got> {
                self.parameters.iter().find_map(|parameter| match parameter {
                    Parameter::$name(value) => Some($as(value)),
                    _ => None,
                })
            })*
        }
    };
}

parameters! {
    /// When it was made.
    Created = "created", Seconds, read_seconds, created -> Seconds = Seconds::clone;
    /// When it ends.
    Expires = "expires", Seconds, read_seconds, expires -> Seconds = Seconds::clone;
    /// A text that no other signature by this key has.
    Nonce = "nonce", Text, read_text, nonce -> &str = Text::as_str;
    /// The algorithm's name.
    Algorithm = "alg", Text, read_text, algorithm -> &str = Text::as_str;
    /// Which key made it.
    KeyId = "keyid", Text, read_text, key_id -> &str = Text::as_str;
    /// What it is for.
    Tag = "tag", Text, read_text, tag -> &str = Text::as_str;
}

/// Seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub i64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn read_seconds(from: &mut Cursor<'_>) -> Result<Seconds, FieldError> {
    from.integer().map(Seconds)
}

fn read_text(from: &mut Cursor<'_>) -> Result<Text, FieldError> {
    from.string().map(Text)
}

/// The text of a parameter: printable ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_string(&self.0, f)
    }
}

/// What a signature is made over, and what it says of itself. As text it is a member of `Signature-Input`, with the
/// parameters in the order that they came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    components: Vec<Component>,
    parameters: Vec<Parameter>,
}

impl Input {
    /// A signature over these components that says this of itself.
    pub fn new(components: Vec<Component>, parameters: Vec<Parameter>) -> Self {
        Self {
            components,
            parameters,
        }
    }

    /// The inputs in a field `Signature-Input`, by their labels.
    pub fn read_all(field: &str) -> Result<Vec<(String, Self)>, FieldError> {
        dictionary(field, Self::read)
    }

    /// What it is made over, in order.
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    fn read(from: &mut Cursor<'_>) -> Result<Self, FieldError> {
        let components = components(from)?;
        let mut parameters = Vec::new();
        while from.eat(';') {
            let parameter = Parameter::read(from)?;
            let same =
                |known: &Parameter| std::mem::discriminant(known) == std::mem::discriminant(&parameter);
            if parameters.iter().any(same) {
                return Err(FieldError::Twice);
            }
            parameters.push(parameter);
        }
        Ok(Self::new(components, parameters))
    }
}

fn components(from: &mut Cursor<'_>) -> Result<Vec<Component>, FieldError> {
    let mut components = Vec::new();
    from.expect('(')?;
    from.spaces();
    while !from.eat(')') {
        let component = Component::read(from)?;
        if components.contains(&component) {
            return Err(FieldError::Twice);
        }
        if components.len() == MAX_COMPONENTS {
            return Err(FieldError::TooLong);
        }
        components.push(component);
        if !from.spaces() {
            from.expect(')')?;
            break;
        }
    }
    Ok(components)
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (nth, component) in self.components.iter().enumerate() {
            if nth > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{component}")?;
        }
        f.write_str(")")?;
        self.parameters
            .iter()
            .try_for_each(|parameter| write!(f, ";{parameter}"))
    }
}
