//! Accepted leaks. Responsible for suppressions in the syntax of `LeakSanitizer`; not for what profiles expect.
//!
//! One per line, `leak:PATTERN`; `#` begins a comment. A pattern covers a finding if it fits a part of a function, file or module
//! name of any frame of its stack; `*` stands for any text, `^` and `$` for the beginning and the end.

use crate::error::AnalysisError;
use crate::profile::glob;
use crate::sites::StackFrame;

/// A list of accepted leaks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Suppressions {
    patterns: Vec<String>,
}

impl Suppressions {
    /// Reads a list. `path` is for messages.
    ///
    /// # Errors
    /// A line is neither empty nor a comment nor `leak:PATTERN`; the message names it.
    pub fn parse(text: &str, path: &str) -> Result<Self, AnalysisError> {
        let mut patterns = Vec::new();
        for (line, number) in text.lines().map(str::trim).zip(1..) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.strip_prefix("leak:").map(str::trim).filter(|pattern| !pattern.is_empty()) {
                Some(pattern) => patterns.push(pattern.to_owned()),
                None => {
                    return Err(AnalysisError::Suppressions {
                        path: path.to_owned(),
                        line: number,
                        found: line.to_owned(),
                    });
                }
            }
        }
        Ok(Self { patterns })
    }

    /// The first pattern that covers a stack.
    pub fn covers(&self, stack: &[StackFrame]) -> Option<String> {
        self.patterns
            .iter()
            .find(|pattern| {
                stack.iter().any(|frame| {
                    [&frame.function, &frame.file, &frame.module].into_iter().any(|name| fits(pattern, name))
                })
            })
            .cloned()
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    let (start, pattern) = pattern.strip_prefix('^').map_or(("*", pattern), |rest| ("", rest));
    let (end, pattern) = pattern.strip_suffix('$').map_or(("*", pattern), |rest| ("", rest));
    !name.is_empty() && glob(&format!("{start}{pattern}{end}"), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, module: &str) -> StackFrame {
        StackFrame { function: function.into(), module: module.into(), file: String::new(), line: 0 }
    }

    #[test]
    fn patterns_fit_parts_of_names_of_any_frame() {
        let list = Suppressions::parse("# known\n\nleak:parse_*_list\nleak:^main$\nleak:libfoo.so\n", "x").unwrap();
        for (stack, expected) in [
            (vec![frame("my_parse_item_list2", "a")], Some("parse_*_list")),
            (vec![frame("f", "a"), frame("main", "a")], Some("^main$")),
            (vec![frame("domain", "a")], None),
            (vec![frame("g", "/lib/libfoo.so.1")], Some("libfoo.so")),
            (vec![], None),
        ] {
            assert_eq!(list.covers(&stack).as_deref(), expected);
        }
    }

    #[test]
    fn other_lines_are_refused_with_their_number() {
        let error = Suppressions::parse("leak:a\nrace:b\n", "my.supp").unwrap_err().to_string();
        assert!(error.contains("my.supp") && error.contains("line 2") && error.contains("race:b"), "{error}");
    }
}
