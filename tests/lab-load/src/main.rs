//! `lab-load`: what to do is the only argument; the plan comes in and the outcome goes out as JSON.

#![forbid(unsafe_code)]

use std::io::{Read as _, stdin, stdout};

use anyhow::{Context as _, Result, bail};
use moorline_lab_load::plan::{ATTACK, CHANGES, DRIVE, ECHO, HOLD, HOSTILE};
use moorline_lab_load::{attack, changes, drive, echo, hold, hostile};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn main() -> Result<()> {
    let task = std::env::args().nth(1).unwrap_or_default();
    match task.as_str() {
        DRIVE => tell(&drive(&plan()?)?),
        CHANGES => tell(&changes(&plan()?)?),
        HOLD => hold(&plan()?),
        ECHO => echo(&plan()?),
        ATTACK => attack(&plan()?),
        HOSTILE => tell(&hostile(&plan()?)?),
        other => {
            bail!("'{other}' is nothing to do; say {DRIVE}, {CHANGES}, {HOLD}, {ECHO}, {ATTACK} or {HOSTILE}")
        }
    }
}

fn plan<T: DeserializeOwned>() -> Result<T> {
    let mut text = String::new();
    stdin().read_to_string(&mut text).context("read the plan")?;
    serde_json::from_str(&text).context("understand the plan")
}

fn tell(outcome: &impl Serialize) -> Result<()> {
    serde_json::to_writer(stdout().lock(), outcome).context("write the outcome")
}
