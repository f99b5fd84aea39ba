//! Sentences that are computed. Responsible for keeping the words of a finding together with the figures and names in them, so that
//! a report can lay them out and a program can read them; not for which sentences there are.
//!
//! ```text
//!   template   "{frees_saved} of {frees} frees ({share}) would be moot"
//!   values      [count(1_995), count(12_421), share(0.16)]
//!   text        1,995 of 12,421 frees (16.1 %) would be moot
//!   JSON        {"kind": …, "sentence": …, "figures": {"frees_saved": 1995, "frees": 12421, "share": 0.16…}}
//! ```

use std::fmt::Write as _;

use serde::ser::{Serialize, SerializeMap as _, SerializeStruct as _, Serializer};

use crate::units;

/// A value in a sentence or in a cell of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// How many; with the words for one and for several, if they follow.
    Count(u64, Option<(&'static str, &'static str)>),
    /// Bytes.
    Bytes(u64),
    /// A part of a whole, from 0 to 1.
    Share(f64),
    /// By how much of the whole something rises or falls.
    Change(f64),
    /// A multiple.
    Factor(f64),
    /// Nanoseconds.
    Duration(u64),
    /// A function's name, whole.
    Function(String),
    /// Another name: of a phase, a thread, an allocator, a file.
    Name(String),
    /// A command line.
    Command(String),
    /// Words that depend on the trace.
    Words(String),
    /// Nothing to say.
    None,
}

/// How many.
pub(super) fn count(value: u64) -> Value {
    Value::Count(value, None)
}

/// How many of what.
pub(super) fn counted(value: u64, one: &'static str, many: &'static str) -> Value {
    Value::Count(value, Some((one, many)))
}

/// Bytes.
pub(super) fn bytes(value: u64) -> Value {
    Value::Bytes(value)
}

/// A part of a whole.
pub(super) fn share(part: u64, whole: u64) -> Value {
    Value::Share(crate::sites::ratio(part, whole))
}

/// A function.
pub(super) fn function(name: &str) -> Value {
    Value::Function(name.to_owned())
}

/// A name of something else.
pub(super) fn name(name: &str) -> Value {
    Value::Name(name.to_owned())
}

/// Words.
pub(super) fn words(text: impl Into<String>) -> Value {
    Value::Words(text.into())
}

impl Value {
    /// As plain text, names whole.
    pub fn text(&self) -> String {
        match self {
            Self::Count(value, None) => units::count(*value),
            Self::Count(value, Some((one, many))) => units::plural(*value, one, many),
            Self::Bytes(value) => units::bytes(*value),
            Self::Share(value) => percent(*value),
            Self::Change(value) => format!("{:+.2} %", 100.0 * value).replace('-', "−"),
            Self::Factor(value) => factor(*value),
            Self::Duration(ns) => units::duration(*ns),
            Self::Function(text) | Self::Name(text) | Self::Command(text) | Self::Words(text) => text.clone(),
            Self::None => "–".to_owned(),
        }
    }

    /// Whether it is a number.
    pub fn is_figure(&self) -> bool {
        !matches!(self, Self::Function(_) | Self::Name(_) | Self::Command(_) | Self::Words(_) | Self::None)
    }
}

/// A multiple, with fewer digits the greater it is.
fn factor(value: f64) -> String {
    if value < 1.1 {
        format!("{value:.3}")
    } else if value < 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// What is more than nothing is never shown as nothing, what is less than all never as all.
fn percent(share: f64) -> String {
    let text = format!("{:.1} %", 100.0 * share);
    match text.as_str() {
        "0.0 %" if share > 0.0 => "< 0.1 %".to_owned(),
        "100.0 %" if share < 1.0 => "> 99.9 %".to_owned(),
        _ => text,
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(value, _) | Self::Bytes(value) | Self::Duration(value) => serializer.serialize_u64(*value),
            Self::Share(value) | Self::Change(value) | Self::Factor(value) => serializer.serialize_f64(*value),
            Self::Function(text) | Self::Name(text) | Self::Command(text) | Self::Words(text) => {
                serializer.serialize_str(text)
            }
            Self::None => serializer.serialize_none(),
        }
    }
}

/// A part of a sentence.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Fixed words.
    Text(String),
    /// A value with its name.
    Value(String, Value),
}

/// A computed sentence, or several that say one thing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sentence {
    /// Which finding it is, for programs.
    pub kind: &'static str,
    /// Its parts in order.
    pub pieces: Vec<Piece>,
}

impl Sentence {
    /// A sentence of a template, in which `{name}` stands for the next value.
    ///
    /// # Panics
    /// The template has more or fewer places than there are values: our own bug.
    pub fn new(kind: &'static str, template: &str, values: impl IntoIterator<Item = Value>) -> Self {
        let mut sentence = Self { kind, pieces: Vec::new() };
        sentence.push(template, values);
        sentence
    }

    /// The sentence, continued.
    #[must_use]
    pub fn and(mut self, template: &str, values: impl IntoIterator<Item = Value>) -> Self {
        self.push(template, values);
        self
    }

    /// The sentence, continued if there is reason to.
    #[must_use]
    pub fn and_if(self, reason: bool, template: &str, values: impl IntoIterator<Item = Value>) -> Self {
        if reason { self.and(template, values) } else { self }
    }

    /// The sentence, continued by a list: each item by one template, set apart by commas. Names of values get the item's number.
    #[must_use]
    pub fn list<V: IntoIterator<Item = Value>>(mut self, template: &str, items: impl IntoIterator<Item = V>) -> Self {
        for (at, values) in items.into_iter().enumerate() {
            if at > 0 {
                self.pieces.push(Piece::Text(", ".to_owned()));
            }
            let from = self.pieces.len();
            self.push(template, values);
            for piece in &mut self.pieces[from..] {
                if let Piece::Value(name, _) = piece {
                    _ = write!(name, "_{}", at + 1);
                }
            }
        }
        self
    }

    fn push(&mut self, template: &str, values: impl IntoIterator<Item = Value>) {
        let mut values = values.into_iter();
        let mut rest = template;
        while let Some((before, (name, after))) =
            rest.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
        {
            if !before.is_empty() {
                self.pieces.push(Piece::Text(before.to_owned()));
            }
            let value = values.next().unwrap_or_else(|| panic!("{}: no value for {name} in {template:?}", self.kind));
            self.pieces.push(Piece::Value(name.to_owned(), value));
            rest = after;
        }
        assert!(values.next().is_none(), "{}: more values than places in {template:?}", self.kind);
        if !rest.is_empty() {
            self.pieces.push(Piece::Text(rest.to_owned()));
        }
    }

    /// Its values with their names.
    pub fn values(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Value(name, value) => Some((name.as_str(), value)),
            Piece::Text(_) => None,
        })
    }

    /// As plain text, names whole.
    pub fn text(&self) -> String {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Value(_, value) => value.text(),
        };
        self.pieces.iter().map(text).collect()
    }
}

impl Serialize for Sentence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Sentence", 3)?;
        fields.serialize_field("kind", self.kind)?;
        fields.serialize_field("sentence", &self.text())?;
        fields.serialize_field("figures", &Figures(self))?;
        fields.end()
    }
}

struct Figures<'s>(&'s Sentence);

impl Serialize for Figures<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.0.values() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_keeps_its_figures() {
        let sentence = Sentence::new("moot", "{saved} of {frees} ({share})", [count(1200), count(2400), share(1, 2)])
            .and_if(false, "{never}", [count(1)])
            .and(": ", [])
            .list("{function} {count}", [[function("a<b>"), count(1)], [function("c"), count(2)]]);
        assert_eq!(sentence.text(), "1,200 of 2,400 (50.0 %): a<b> 1, c 2");
        let json = serde_json::to_value(&sentence).unwrap();
        assert_eq!(json["figures"]["saved"], 1200);
        assert_eq!(json["figures"]["function_2"], "c");
        assert_eq!(json["sentence"], sentence.text());
    }

    #[test]
    fn little_is_not_shown_as_nothing() {
        assert_eq!(share(1, 100_000).text(), "< 0.1 %");
        assert_eq!(share(99_999, 100_000).text(), "> 99.9 %");
        assert_eq!((share(0, 5).text(), share(5, 5).text()), ("0.0 %".into(), "100.0 %".into()));
        assert_eq!(Value::Change(-0.0123).text(), "−1.23 %");
    }
}
