//! Which markers a recording places: those of the compilers' profiles. Responsible for reading `--profile` and for saying the
//! live rules of profiles in the collector's words.

use analyzer::profile::{LiveRule, Profile, built_in};
use anyhow::Context as _;
use probe_collector::{MarkerProfile, MarkerRule, MarkerValue};

/// The profiles that `--profile` asks for.
pub(crate) fn profiles(asked: &str) -> anyhow::Result<Vec<MarkerProfile>> {
    let profiles = match asked {
        "none" => Vec::new(),
        "auto" => built_in(),
        path => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the profile {path}"))?;
            vec![Profile::parse(&text, path)?]
        }
    };
    profiles.iter().map(markers).collect()
}

fn markers(profile: &Profile) -> anyhow::Result<MarkerProfile> {
    let wrong = |rule: &LiveRule| format!("profile `{}`: the value of its marker `{}`", profile.name, rule.name);
    let rule = |rule: &LiveRule| {
        let value = rule.value.as_deref().map(MarkerValue::parse).transpose();
        Ok(MarkerRule {
            name: rule.name.clone(),
            begin: rule.begin.clone(),
            end: rule.end.clone(),
            point: rule.point.clone(),
            value: value.map_err(anyhow::Error::msg).with_context(|| wrong(rule))?.unwrap_or_default(),
        })
    };
    Ok(MarkerProfile {
        name: profile.name.clone(),
        executables: profile.executables.clone(),
        requires: profile.requires.clone(),
        rules: profile.markers.iter().map(rule).collect::<anyhow::Result<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_profiles_can_be_placed() {
        let all = profiles("auto").unwrap();
        assert!(all.len() >= 5);
        for profile in &all {
            profile.check().unwrap_or_else(|error| panic!("{}: {error}", profile.name));
        }
        let rustc = all.iter().find(|profile| profile.name == "rustc").unwrap();
        let text = MarkerValue::Text { at: "rdx".into(), length: Some("rcx".into()) };
        assert_eq!(rustc.rules[0].value, text);
        assert!(profiles("none").unwrap().is_empty());
        assert!(profiles("/does/not/exist").unwrap_err().to_string().contains("/does/not/exist"));
    }
}
