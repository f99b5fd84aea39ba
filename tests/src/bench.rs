//! What the benchmarks have in common: their arguments and their lines. Responsible for form only; each says itself what it measures.

/// Arguments of a benchmark.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// Runs of each kind.
    pub runs: usize,
    /// One run of something small, to see that everything works.
    pub smoke: bool,
    /// Only what is called so.
    pub only: Option<String>,
    /// Where to keep what is recorded.
    pub keep: Option<String>,
    /// All that is no option.
    pub rest: Vec<String>,
}

impl Arguments {
    /// Those of the command line: `[--runs N] [--smoke] [--only NAME] [--keep FOLDER] …`. Ends the process with 2 where they are wrong.
    pub fn of_command_line(runs: usize) -> Self {
        Self::parse(runs, std::env::args().skip(1)).unwrap_or_else(|problem| {
            eprintln!("{problem}");
            std::process::exit(2);
        })
    }

    fn parse(runs: usize, mut given: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self { runs, smoke: false, only: None, keep: None, rest: Vec::new() };
        while let Some(argument) = given.next() {
            let mut value = || given.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--runs" => parsed.runs = value()?.parse().map_err(|_| "--runs takes a number".to_owned())?,
                "--only" => parsed.only = Some(value()?),
                "--keep" => parsed.keep = Some(value()?),
                "--smoke" => (parsed.smoke, parsed.runs) = (true, 1),
                // cargo bench passes this to every bench
                "--bench" => {}
                option if option.starts_with('-') => return Err(format!("unknown argument {option}")),
                _ => parsed.rest.push(argument),
            }
        }
        if parsed.runs == 0 {
            return Err("--runs takes a number above 0".to_owned());
        }
        Ok(parsed)
    }
}

/// Prints a line of the answer.
#[expect(clippy::print_stdout, reason = "a benchmark's answer goes to standard output")]
pub fn say(line: &str) {
    println!("{line}");
}

/// Says which bars were missed, or that none was.
pub fn say_missed(missed: &[String]) {
    for bar in missed {
        say(&format!("MISSED: {bar}"));
    }
    if missed.is_empty() {
        say("every bar is met");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Arguments, String> {
        Arguments::parse(5, text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_read_and_wrong_ones_refused() {
        let arguments = parsed("--bench --runs 3 --only x a.htape").unwrap();
        assert_eq!((arguments.runs, arguments.smoke, arguments.only.as_deref()), (3, false, Some("x")));
        assert_eq!(arguments.rest, ["a.htape"]);
        assert_eq!(parsed("--smoke").unwrap().runs, 1);
        for (wrong, part) in [("--runs 0", "above 0"), ("--only", "needs a value"), ("--fast", "unknown")] {
            assert!(parsed(wrong).unwrap_err().contains(part), "{wrong}");
        }
    }
}
