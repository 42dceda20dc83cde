//! JSON objects whose members keep their order, as QEMU's `-device` and its like take them.

use std::fmt;

/// A member's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(u64),
    Flag(bool),
    Object(Object),
}

/// An object, built member by member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Object(Vec<(&'static str, Value)>);

impl Object {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A device of that driver.
    pub(crate) fn driver(name: impl Into<String>) -> Self {
        Self::new().with("driver", name.into())
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// Adds the member, if there is something to add.
    pub(crate) fn maybe(self, name: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds all members of another.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// As a QMP command's arguments.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let members = self.0.iter().map(|(name, value)| {
            let value = match value {
                Value::Text(text) => text.as_str().into(),
                Value::Number(number) => (*number).into(),
                Value::Flag(flag) => (*flag).into(),
                Value::Object(object) => object.to_json(),
            };
            ((*name).to_owned(), value)
        });
        serde_json::Value::Object(members.collect())
    }
}

/// One line without blanks.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (name, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}\"{name}\":")?;
            match value {
                Value::Text(text) => write!(f, "{}", serde_json::Value::from(text.as_str()))?,
                Value::Number(number) => write!(f, "{number}")?,
                Value::Flag(flag) => write!(f, "{flag}")?,
                Value::Object(object) => write!(f, "{object}")?,
            }
        }
        f.write_str("}")
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u8> for Value {
    fn from(number: u8) -> Self {
        Self::Number(number.into())
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_texts_are_escaped() {
        let object = Object::driver("x")
            .with("z", 1u32)
            .maybe("none", None::<bool>)
            .with("a", "quo\"te\\ and\nline")
            .with("inner", Object::new().with("flag", true));
        let text = object.to_string();
        assert_eq!(
            text,
            r#"{"driver":"x","z":1,"a":"quo\"te\\ and\nline","inner":{"flag":true}}"#
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            object.to_json()
        );
    }
}
