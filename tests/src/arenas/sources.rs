//! Modules in the toy language of the planted compiler (`workloads/arenas/planted.c`). Responsible for programs that differ in shape,
//! the same bytes on every machine.

use std::fmt::Write as _;

/// What a program looks like.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Name, for tables.
    pub name: &'static str,
    /// Of the random numbers.
    pub seed: u64,
    /// Modules.
    pub modules: u64,
    /// Functions of a module, at most; half as many at least.
    pub functions: u64,
    /// Statements of a block, at most.
    pub statements: u64,
    /// Blocks inside of blocks.
    pub nesting: u64,
    /// Operators inside of operators.
    pub depth: u64,
    /// Constants of a module, each made of those before it.
    pub constants: u64,
    /// One function of so many is exported.
    pub public_one_of: u64,
}

/// Programs of different shapes. None is an edit of another.
pub const SHAPES: &[Shape] = &[
    Shape {
        name: "few large functions",
        seed: 11,
        modules: 3,
        functions: 6,
        statements: 8,
        nesting: 3,
        depth: 3,
        constants: 6,
        public_one_of: 5,
    },
    Shape {
        name: "many small functions",
        seed: 23,
        modules: 5,
        functions: 40,
        statements: 5,
        nesting: 1,
        depth: 2,
        constants: 4,
        public_one_of: 3,
    },
    Shape {
        name: "constants and conditions",
        seed: 37,
        modules: 4,
        functions: 16,
        statements: 7,
        nesting: 2,
        depth: 2,
        constants: 14,
        public_one_of: 7,
    },
    Shape {
        name: "long expressions",
        seed: 41,
        modules: 6,
        functions: 12,
        statements: 6,
        nesting: 1,
        depth: 5,
        constants: 5,
        public_one_of: 2,
    },
];

/// Text of a program's modules.
pub fn modules(shape: &Shape) -> Vec<String> {
    let mut writer = Writer { random: shape.seed, shape: *shape, known: Vec::new(), text: String::new() };
    (0..shape.modules).map(|module| writer.module(module)).collect()
}

struct Writer {
    random: u64,
    shape: Shape,
    /// Names that an expression may use.
    known: Vec<String>,
    text: String,
}

impl Writer {
    /// A number below `limit`, by a linear congruential generator (Knuth's MMIX).
    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit.max(1)
    }

    fn module(&mut self, module: u64) -> String {
        self.text = String::new();
        self.known.clear();
        for constant in 0..self.shape.constants {
            let name = format!("limit{module}of{constant}");
            let public = if self.below(3) == 0 { "pub " } else { "" };
            let _ = write!(self.text, "{public}const {name} = ");
            self.expression(1);
            self.text.push_str(";\n");
            self.known.push(name);
        }
        let functions = self.shape.functions / 2 + self.below(self.shape.functions / 2 + 1);
        for function in 0..functions {
            let public = if self.below(self.shape.public_one_of) == 0 { "pub " } else { "" };
            let _ = write!(self.text, "{public}fn work{module}on{function}(left, right) ");
            let known = self.known.len();
            self.known.extend(["left".to_owned(), "right".to_owned()]);
            self.block(self.shape.nesting);
            self.known.truncate(known);
            self.text.push('\n');
        }
        self.text.clone()
    }

    fn block(&mut self, nesting: u64) {
        self.text.push_str("{\n");
        let known = self.known.len();
        let statements = self.shape.statements / 2 + 1 + self.below(self.shape.statements / 2 + 1);
        for statement in 0..statements {
            match self.below(6) {
                0 | 1 => {
                    let name = format!("value{nesting}and{statement}");
                    let _ = write!(self.text, "let {name} = ");
                    self.expression(self.shape.depth);
                    self.text.push_str(";\n");
                    self.known.push(name);
                }
                2 | 3 if nesting > 0 => {
                    let word = if self.below(2) == 0 { "if " } else { "while " };
                    self.text.push_str(word);
                    self.expression(1);
                    self.text.push(' ');
                    self.block(nesting - 1);
                }
                4 => {
                    self.text.push_str("return ");
                    self.expression(self.shape.depth);
                    self.text.push_str(";\n");
                }
                _ => {
                    self.expression(self.shape.depth);
                    self.text.push_str(";\n");
                }
            }
        }
        self.known.truncate(known);
        self.text.push_str("}\n");
    }

    fn expression(&mut self, depth: u64) {
        match self.below(if depth == 0 { 2 } else { 7 }) {
            0 => {
                let number = self.below(700);
                let _ = write!(self.text, "{number}");
            }
            1 => self.name(),
            2 => {
                self.text.push_str("call");
                let callee = self.below(9);
                let _ = write!(self.text, "{callee}(");
                for argument in 0..self.below(4) {
                    if argument > 0 {
                        self.text.push_str(", ");
                    }
                    self.expression(depth - 1);
                }
                self.text.push(')');
            }
            3 => {
                self.text.push('(');
                self.expression(depth - 1);
                self.text.push(')');
            }
            _ => {
                self.expression(depth - 1);
                let operator = self.below(4) as usize;
                self.text.push_str([" + ", " - ", " * ", " < "][operator]);
                self.expression(depth - 1);
            }
        }
    }

    /// Mostly one that is declared.
    fn name(&mut self) {
        let at = self.below(self.known.len() as u64 + 1) as usize;
        let name = self.known.get(at).cloned().unwrap_or_else(|| "missing".to_owned());
        self.text.push_str(&name);
    }
}
