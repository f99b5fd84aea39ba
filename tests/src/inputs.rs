//! Writes the source files that live tests and benchmarks compile, the same bytes on every machine, and finds
//! sqlite3.c. Responsible for the inputs' text; not for compiling them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::workload::scratch_dir;

/// The folder that holds every generated input; written at first use.
pub fn dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = scratch_dir().join("inputs");
        std::fs::create_dir_all(&dir).expect("the scratch folder is writable");
        for (name, text) in all() {
            let path = dir.join(name);
            if std::fs::read_to_string(&path).is_ok_and(|present| present == text) {
                continue;
            }
            // Another test process may read it meanwhile: replace it whole.
            let part = dir.join(format!("{name}.{}", std::process::id()));
            std::fs::write(&part, &text).and_then(|()| std::fs::rename(&part, &path)).expect("an input can be written");
        }
        dir
    })
}

/// Path of one generated input, such as `medium.cpp`.
pub fn path(name: &str) -> PathBuf {
    let path = dir().join(name);
    assert!(path.is_file(), "no input is called {name}");
    path
}

/// Every generated input: name and text.
pub fn all() -> Vec<(&'static str, String)> {
    vec![
        ("small.c", "int puts(const char *);\nint main(void) { return puts(\"hi\"); }\n".to_owned()),
        ("medium.c", c_program(1500)),
        ("small.cpp", "#include <cstdio>\nint main() { std::puts(\"hi\"); }\n".to_owned()),
        ("medium.cpp", MEDIUM_CPP.to_owned()),
        ("large.cpp", cpp_program(40)),
        ("small.rs", "fn main() { println!(\"hi\"); }\n".to_owned()),
        ("medium.rs", rust_program(20)),
        ("large.rs", rust_program(250)),
        ("wrong.c", "int main(void) { return missing; }\n".to_owned()),
        ("wrong.cpp", WRONG_CPP.to_owned()),
        ("wrong.rs", WRONG_RS.to_owned()),
    ]
}

const MEDIUM_CPP: &str = r#"#include <iostream>
#include <map>
#include <string>
#include <vector>
#include <algorithm>
struct R { std::string k; int v; };
int main() {
  std::map<std::string, std::vector<R>> m;
  for (int i = 0; i < 10; i++) m[std::to_string(i)].push_back({"a", i});
  for (auto &[k, v] : m) {
    std::sort(v.begin(), v.end(), [](const R &a, const R &b) { return a.v < b.v; });
    std::cout << k << v.size() << "\n";
  }
}
"#;

/// Fails deep in a template, so that the compiler has much to unwind and to say.
const WRONG_CPP: &str = "#include <algorithm>\n#include <map>\n#include <string>\nstruct S { int x; };\n\
    int main() { std::map<S, std::string> m; m[S{1}] = \"a\"; std::sort(m.begin(), m.end()); return m.size() + nope; }\n";

/// Fails in name resolution, in type checking and in borrow checking.
const WRONG_RS: &str = "fn take(v: Vec<u8>) -> usize { v.len() }\n\
    fn main() {\n    let v = vec![1_u8, 2];\n    take(v);\n    take(v);\n    let n: u32 = \"x\";\n    \
    println!(\"{}\", n + undefined_name);\n}\n";

fn cpp_program(unit_count: usize) -> String {
    const HEADERS: [&str; 11] = [
        "regex",
        "iostream",
        "map",
        "unordered_map",
        "vector",
        "string",
        "functional",
        "memory",
        "tuple",
        "variant",
        "algorithm",
    ];
    const UNIT: &str = r#"
template <int N> struct T@ {
  std::map<std::string, std::vector<std::tuple<int, double, std::string>>> m;
  std::unordered_map<int, std::variant<int, std::string, double>> u;
  int run(const std::string &s) {
    std::regex r("a@[0-9]+(b|c)*"); std::smatch found; int hits = 0;
    if (std::regex_search(s, found, r)) hits += found.size();
    m[s].emplace_back(N, 1.0 * N, s); u.emplace(N, s);
    std::function<int(int)> f = [&](int x) { return x + hits + (int)m.size() + (int)u.size(); };
    auto p = std::make_shared<std::pair<int, std::string>>(hits, s);
    std::sort(m[s].begin(), m[s].end());
    return f(N) + p->first;
  }
};
int f@(const std::string &s) { T@<@> a; T@<#> b; return a.run(s) + b.run(s); }
"#;
    let mut text = String::new();
    for header in HEADERS {
        let _ = writeln!(text, "#include <{header}>");
    }
    for index in 0..unit_count {
        text += &UNIT.replace('@', &index.to_string()).replace("<#>", &format!("<{}>", index + 100));
    }
    let calls: Vec<String> = (0..unit_count).map(|index| format!("f{index}(s)")).collect();
    let _ = writeln!(text, "int main(int, char **v) {{ std::string s(v[0]); return {}; }}", calls.join(" + "));
    text
}

fn rust_program(unit_count: usize) -> String {
    const UNIT: &str = r#"
#[derive(Debug, Clone, PartialEq)]
pub struct S@ { pub a: u32, pub b: String, pub c: Vec<u64> }
#[derive(Debug, Clone)]
pub enum E@ { A(S@), B { x: i64, y: Option<Box<E@>> }, C }
pub trait Tr@ { fn go(&self, k: u32) -> Option<u32>; }
impl Tr@ for S@ {
    fn go(&self, k: u32) -> Option<u32> {
        let v: Vec<u32> = self.c.iter().map(|x| (*x as u32).wrapping_mul(k)).filter(|x| x % 3 != 0).collect();
        let mut h = HashMap::new();
        for (i, x) in v.iter().enumerate() { *h.entry(x % 7).or_insert(0usize) += i; }
        h.get(&k).map(|x| *x as u32 + self.a)
    }
}
pub fn f@(e: &E@) -> Result<u32, String> {
    match e {
        E@::A(s) => s.go(@).ok_or_else(|| format!("none {:?}", s)),
        E@::B { x, y } => { let mut t = *x as u32; if let Some(b) = y { t = t.wrapping_add(f@(b)?); } Ok(t) }
        E@::C => Err("c".to_string()),
    }
}
"#;
    const CALL: &str = "    let e = E@::A(S@ { a: @, b: String::from(\"q\"), c: vec![1, 2, 3] }); \
                        t = t.wrapping_add(f@(&e).unwrap_or(1));\n";
    let mut text = String::from("use std::collections::HashMap;\nuse std::fmt::Debug;\n");
    for index in 0..unit_count {
        text += &UNIT.replace('@', &index.to_string());
    }
    text += "fn main() {\n    let mut t = 0u32;\n";
    for index in 0..unit_count {
        text += &CALL.replace('@', &index.to_string());
    }
    text + "    println!(\"{}\", t);\n}\n"
}

fn c_program(unit_count: usize) -> String {
    const UNIT: &str = "struct S@ { int a; long b; char c[#]; struct S@ *n; };\n\
        static int f@(struct S@ *p, int k) { int s = 0; for (int j = 0; j < k; j++) { if (p->a > j) s += p->b * j; \
        else s ^= j << (k & 7); switch (s & 3) { case 0: s += 1; break; case 1: s -= p->c[0]; break; default: s *= 3; } } \
        return p->n ? f@(p->n, k - 1) + s : s; }\n";
    let mut text = String::new();
    for index in 0..unit_count {
        text += &UNIT.replace('@', &index.to_string()).replace("[#]", &format!("[{}]", index % 31 + 1));
    }
    text + "int main(void) { return 0; }\n"
}

/// sqlite3.c out of the registry's copy of `libsqlite3-sys`, fetched with `cargo fetch` where it is not there yet.
pub fn sqlite3_c() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        find_sqlite3_c().unwrap_or_else(|| {
            let status = Command::new(env!("CARGO"))
                .args(["fetch", "--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
                .status()
                .expect("cargo starts");
            assert!(status.success(), "`cargo fetch` failed: sqlite3.c comes from the crate libsqlite3-sys");
            find_sqlite3_c().expect("`cargo fetch` brings libsqlite3-sys, which holds sqlite3/sqlite3.c")
        })
    })
    .clone()
}

fn find_sqlite3_c() -> Option<PathBuf> {
    in_registry("libsqlite3-sys-0.39.1/sqlite3/sqlite3.c")
}

/// A file of a crate in cargo's registry folder, such as `memchr-2.8.0/src/lib.rs`; none if the crate was not fetched.
pub fn in_registry(path: &str) -> Option<PathBuf> {
    registries().map(|registry| registry.join(path)).find(|path| path.is_file())
}

/// `src/lib.rs` of some version of a crate in cargo's registry folder, the newest that is there.
pub fn crate_source(name: &str) -> Option<PathBuf> {
    let is_version = |folder: &str| {
        folder
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
    };
    let mut found: Vec<PathBuf> = registries()
        .filter_map(|registry| std::fs::read_dir(registry).ok())
        .flatten()
        .flatten()
        .filter(|folder| folder.file_name().to_str().is_some_and(is_version))
        .map(|folder| folder.path().join("src/lib.rs"))
        .filter(|source| source.is_file())
        .collect();
    found.sort();
    found.pop()
}

fn registries() -> impl Iterator<Item = PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let sources = home.and_then(|home| std::fs::read_dir(home.join("registry/src")).ok());
    sources.into_iter().flatten().flatten().map(|registry| registry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The generated programs are what published figures were measured on: a changed byte makes them incomparable.
    /// FNV-1a, 64 bits.
    #[test]
    fn the_generated_programs_never_change() {
        let wanted = [
            ("medium.c", 0xa66b_4771_065a_d366_u64),
            ("medium.cpp", 0x28c3_91e3_9542_8264),
            ("large.cpp", 0x44f3_a79d_95bf_8f99),
            ("medium.rs", 0x478d_47cd_14a8_9ac5),
            ("large.rs", 0xf99b_afe7_ed61_204d),
        ];
        for (name, hash) in wanted {
            let (_, text) = all().into_iter().find(|(each, _)| *each == name).expect("the input exists");
            let found = text
                .bytes()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            assert_eq!(found, hash, "{name} changed ({found:#x})");
        }
    }
}
