//! `heaptape demo`: a first look, on any machine.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use analyzer::lifetimes::{Wish, study};
use analyzer::profile::built_in;
use analyzer::{grouping::Grouping, metric::Metric, selection::Wanted, sites::SiteOptions, wrappers::Wrappers};

use super::replayed;
use crate::{output, samples, terminal};

/// Show what heaptape finds in a real compiler: records a small compile where it may, else takes a built-in sample.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder for the trace and the flame graph
    #[arg(long, default_value = "heaptape-demo", value_name = "DIR")]
    out: PathBuf,
    /// Take the built-in sample even where a recording is possible
    #[arg(long)]
    sample: bool,
}

impl Args {
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        output::create_folder(&self.out)?;
        let trace = self.out.join("demo.htape");
        let origin = self.trace(&trace)?;
        writeln!(out, "{origin}\n")?;

        let screen = terminal::screen();
        let replayed = replayed(&trace)?;
        let info = analyzer::info::info(&replayed.trace, &replayed.outcome, analyzer::stacks::stacks(&replayed.trace)?);
        analyzer::report::summary(out, &screen, &info)?;
        let wanted = Wanted::default();
        let profiles = built_in();
        let study = study(&replayed.trace, &replayed.names, &profiles, Wish::Best, super::decoders(), |_| ())?;
        let phases = analyzer::lifetimes::phases(&replayed.trace, &study, &wanted, 0)?;
        analyzer::report::phases(out, &screen, &phases, false)?;
        let wrappers = Wrappers::default();
        let options =
            SiteOptions { metric: Metric::Bytes, grouping: Grouping::Stack, limit: 10, wrappers: wrappers.clone() };
        let sites = analyzer::sites::sites(&replayed.trace, &replayed.outcome, &replayed.names, &wanted, &options)?;
        writeln!(out)?;
        analyzer::report::sites(out, &screen, &sites, 1)?;
        let survivors =
            analyzer::survivors::survivors(&replayed.trace, &replayed.outcome, &replayed.names, &wanted, &wrappers, 5)?;
        writeln!(out)?;
        analyzer::report::survivors(out, &screen, &survivors, 1)?;

        let picture = self.out.join("flamegraph.svg");
        let folded = analyzer::flamegraph::fold(
            &replayed.trace,
            &replayed.outcome,
            &replayed.names,
            &wanted,
            Metric::Bytes,
            None,
        )?;
        output::write(&picture, |file| Ok(folded.draw(file)?))?;
        writeln!(out, "\nWritten: {} (the trace), {} (open it in a browser)", trace.display(), picture.display())?;
        writeln!(out, "Next: heaptape info {}   ·   sudo heaptape record -- YOUR-COMPILER …", trace.display())?;
        Ok(ExitCode::SUCCESS)
    }

    /// Records, or writes the sample; says which.
    fn trace(&self, trace: &Path) -> anyhow::Result<String> {
        let sample = |why: &str| -> anyhow::Result<String> {
            output::write(trace, |file| Ok(file.write_all(samples::CC1PLUS)?))?;
            Ok(format!("A built-in sample: {}{why}.", samples::DESCRIPTION))
        };
        if self.sample {
            return sample("");
        }
        #[cfg(feature = "recording")]
        {
            use crate::recording;
            match recording::can_record() {
                Err(reason) => sample(&format!(" (this machine cannot record now: {reason})")),
                Ok(()) => match recording::record_demo(trace) {
                    Ok(Some(command)) => Ok(format!("Recorded just now: {}", command.join(" "))),
                    Ok(None) => sample(" (no compiler was found to record)"),
                    Err(error) => sample(&format!(" (recording failed: {error:#})")),
                },
            }
        }
        #[cfg(not(feature = "recording"))]
        sample(" (this heaptape is built without recording)")
    }
}
