//! Manual pages, made of what programs say when they are asked for help: a page for each, with all of its commands.
//!
//! Help comes from the definition of the command line, so that a page can't say anything else. Its headings, which end
//! with a colon, are the page's; what stands below them stays as it is laid out.

use crate::process;
use anyhow::{Context, Result};
use std::path::Path;
use tokio::process::Command;

/// As wide as the text of a page is on the narrowest terminal.
const COLUMNS: &str = "72";

/// What a program says of itself, or of one of its commands.
#[derive(Debug, PartialEq, Eq)]
struct Help {
    about: String,
    sections: Vec<Section>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Section {
    heading: String,
    text: String,
}

/// The page of a program in this section of the manual.
///
/// Fails when the program can't be run, or doesn't know `--help`.
pub(super) async fn page(program: &Path, section: u8) -> Result<String> {
    let name = program.file_name().and_then(|name| name.to_str());
    let name = name.context("a program has a name")?;
    let help = Help::parse(&ask(program, &[]).await?);
    let mut page = help.page(name, section);
    let mut commands = help.commands(&[]);
    if !commands.is_empty() {
        page += ".SH EACH COMMAND\n";
    }
    // Those that consist of others are only the way to them.
    while let Some(command) = commands.pop() {
        let told = Help::parse(&ask(program, &command).await?);
        let further = told.commands(&command);
        if further.is_empty() {
            page += &told.part(&format!("{name} {}", command.join(" ")), &help);
        }
        commands.extend(further);
    }
    Ok(page)
}

async fn ask(program: &Path, command: &[String]) -> Result<String> {
    let mut asked = Command::new(program);
    asked.args(command).arg("--help").env("COLUMNS", COLUMNS);
    process::finish(&mut asked).await
}

impl Help {
    fn parse(text: &str) -> Self {
        let about = text.lines().take_while(|line| !line.starts_with("Usage:"));
        let about: Vec<_> = about.map(str::trim).collect();
        let mut help = Self {
            about: about.join(" ").trim().to_owned(),
            sections: Vec::new(),
        };
        for line in text.lines() {
            let usage = line.strip_prefix("Usage:");
            let heading = usage.map(|_| "Usage").or_else(|| line.strip_suffix(':'));
            if let Some(heading) = heading.filter(|heading| !heading.starts_with(' ')) {
                let first = usage.filter(|first| !first.is_empty());
                help.sections.push(Section {
                    heading: heading.to_owned(),
                    text: first.map(|first| format!("      {first}\n")).unwrap_or_default(),
                });
            } else if let Some(section) = help.sections.last_mut() {
                section.text.extend([line.trim_end(), "\n"]);
            }
        }
        for section in &mut help.sections {
            section.text.truncate(section.text.trim_end().len());
        }
        help
    }

    /// The commands that this one consists of, the first one last.
    fn commands(&self, this: &[String]) -> Vec<Vec<String>> {
        let listed = self
            .sections
            .iter()
            .filter(|section| section.heading == "Commands");
        let lines = listed.flat_map(|section| section.text.lines());
        let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
        let own = names.filter(|name| !name.is_empty() && *name != "help");
        let commands = own.map(|name| [this, &[name.to_owned()]].concat());
        commands.rev().collect()
    }

    /// The page, without its part on each command.
    fn page(&self, name: &str, section: u8) -> String {
        let about = self.about.strip_prefix(name).unwrap_or(&self.about);
        let about = about.trim_start_matches(": ");
        let (title, version) = (name.to_uppercase(), env!("CARGO_PKG_VERSION"));
        let begin = format!(
            ".TH {title} {section} \"\" \"Moorline {version}\" Moorline\n.SH NAME\n{name} \\- {}\n",
            escaped(about)
        );
        let sections = self.sections.iter().map(|Section { heading, text }| {
            let heading = heading.to_uppercase().replace("USAGE", "SYNOPSIS");
            format!(".SH {}\n{}", escaped(&heading), literal(text))
        });
        std::iter::once(begin).chain(sections).collect()
    }

    /// What the page says of a command, and hasn't said of all of them.
    fn part(&self, command: &str, general: &Self) -> String {
        let own = self
            .sections
            .iter()
            .filter(|section| !general.sections.contains(section));
        let text = own.map(|Section { heading, text }| format!("{heading}:\n{text}\n\n"));
        let text = literal(&text.collect::<String>());
        format!(".SS {}\n{}\n.PP\n{text}", escaped(command), escaped(&self.about))
    }
}

/// Lines that stay as they are.
fn literal(text: &str) -> String {
    let lines = text.trim_end().lines().map(|line| escaped(line) + "\n");
    format!(".nf\n{}.fi\n", lines.collect::<String>())
}

/// Text in which the formatter sees nothing of its own.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{Help, Section};

    const HELP: &str = "\
Does one thing
and another

Usage: thing [OPTIONS]
       thing <COMMAND>

Commands:
  do    Do it
        all
  undo  Undo it
  help  Print this

Options:
  -q, --quiet  Say nothing
";

    #[test]
    fn help_is_taken_apart_by_its_headings() {
        let help = Help::parse(HELP);
        assert_eq!(help.about, "Does one thing and another");
        let headings = help.sections.iter().map(|section| section.heading.as_str());
        assert_eq!(headings.collect::<Vec<_>>(), ["Usage", "Commands", "Options"]);
        assert_eq!(
            help.sections[0].text,
            "       thing [OPTIONS]\n       thing <COMMAND>"
        );
        let all = ["all".to_owned()];
        assert_eq!(help.commands(&all), [["all", "undo"], ["all", "do"]]);
    }

    #[test]
    fn a_page_says_of_a_command_what_it_has_not_said_yet() {
        let help = Help::parse(HELP);
        let page = help.page("thing", 8);
        assert!(
            page.contains(".SH NAME\nthing \\- Does one thing and another\n.SH SYNOPSIS\n.nf\n"),
            "{page}"
        );
        let mut told = Help::parse(&HELP.replace("Does one thing\nand another", "Do it"));
        assert_eq!(
            told.part("thing do", &help),
            ".SS thing do\nDo it\n.PP\n.nf\n.fi\n"
        );
        told.sections.push(Section {
            heading: "Examples".to_owned(),
            text: "  .\\thing".to_owned(),
        });
        let part = told.part("thing do", &help);
        assert!(part.ends_with(".nf\nExamples:\n  .\\ething\n.fi\n"), "{part}");
    }
}
