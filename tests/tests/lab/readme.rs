//! The commands of the README, for tests that follow it.

use anyhow::{Context, Result};

const README: &str = include_str!("../../../README.md");

/// The commands of a section, by its blocks, without comments.
pub(crate) fn commands(section: &str) -> Result<Vec<Vec<&'static str>>> {
    let (_, text) = README.split_once(section).context("the README's section")?;
    let text = text.split("\n##").next().unwrap_or(text);
    let blocks = text.split("```sh\n").skip(1);
    let of_block = |block: &'static str| {
        let (block, _) = block.split_once("```").context("the block's end")?;
        Ok(block.lines().map(without_comment).collect())
    };
    blocks.map(of_block).collect()
}

fn without_comment(line: &str) -> &str {
    line.split('#').next().unwrap_or(line).trim()
}
