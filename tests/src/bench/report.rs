//! Rows for people and for programs.

use super::spread::Spread;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// How a report is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A table.
    Table,
    /// `{"bench", "rows": [{"name", "median", "min", "max", "goal", "met", "unit"}]}`; a row without a goal has `null`
    /// for its goal and for whether it is met.
    Json,
}

/// What a bench came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The bench.
    pub name: &'static str,
    /// Its rows, in the order in which they are shown.
    pub rows: Vec<Row>,
}

/// One thing that was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    name: String,
    unit: &'static str,
    spread: Spread,
    goal: Option<Goal>,
}

/// What the median is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// This or less; or, whatever it is, so little more than what it is compared with that nobody minds.
    AtMostOr {
        /// The most.
        bound: f64,
        /// How much more it was, in milliseconds.
        added: f64,
        /// How much nobody minds, in milliseconds.
        most: f64,
    },
}

impl Goal {
    fn bound(self) -> f64 {
        match self {
            Self::AtLeast(bound) | Self::AtMost(bound) | Self::AtMostOr { bound, .. } => bound,
        }
    }

    fn is_met_by(self, median: f64) -> bool {
        match self {
            Self::AtLeast(bound) => median >= bound,
            Self::AtMost(bound) => median <= bound,
            Self::AtMostOr { bound, added, most } => median <= bound || added <= most,
        }
    }

    fn shown(self) -> String {
        match self {
            Self::AtLeast(bound) => format!(">= {bound}"),
            Self::AtMost(bound) => format!("<= {bound}"),
            Self::AtMostOr { bound, most, .. } => format!("<= {bound} or +{most} ms"),
        }
    }
}

impl Row {
    /// What the turns came to, without a goal. Fails when there were no turns.
    pub fn new(name: impl Into<String>, unit: &'static str, turns: Vec<f64>) -> Result<Self> {
        let name = name.into();
        let spread = Spread::of(turns).with_context(|| format!("{name} was not measured"))?;
        Ok(Self {
            name,
            unit,
            spread,
            goal: None,
        })
    }

    /// The same row with a goal for its median.
    #[must_use]
    pub fn with(self, goal: Goal) -> Self {
        Self {
            goal: Some(goal),
            ..self
        }
    }

    fn is_met(&self) -> Option<bool> {
        self.goal.map(|goal| goal.is_met_by(self.spread.median))
    }

    fn json(&self) -> Value {
        let Spread { median, min, max } = self.spread;
        json!({
            "name": self.name,
            "median": rounded(median),
            "min": rounded(min),
            "max": rounded(max),
            "goal": self.goal.map(Goal::bound),
            "met": self.is_met(),
            "unit": self.unit,
        })
    }

    fn line(&self) -> String {
        let Spread { median, min, max } = self.spread;
        let goal = self.goal.map(Goal::shown).unwrap_or_default();
        let met = match self.is_met() {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        let [median, min, max] = [median, min, max].map(shown);
        let line = format!(
            "{:<38}{median:>12}{min:>12}{max:>12}  {:<15}{goal:<15}{met}",
            self.name, self.unit
        );
        line.trim_end().to_owned()
    }
}

impl Report {
    /// The report as text.
    pub fn show(&self, form: Form) -> Result<String> {
        match form {
            Form::Table => Ok(self.table()),
            Form::Json => {
                let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
                serde_json::to_string_pretty(&json!({"bench": self.name, "rows": rows}))
                    .context("print the report")
            }
        }
    }

    fn table(&self) -> String {
        let mut table = format!(
            "{:<38}{:>12}{:>12}{:>12}  {:<15}goal",
            self.name, "median", "min", "max", "unit"
        );
        for row in &self.rows {
            let _ = write!(table, "\n{}", row.line());
        }
        table
    }
}

/// Four digits are more than any of this repeats.
fn shown(number: f64) -> String {
    if number.abs() >= 1_000.0 {
        format!("{number:.0}")
    } else if number.abs() >= 10.0 {
        format!("{number:.1}")
    } else {
        format!("{number:.3}")
    }
}

fn rounded(number: f64) -> f64 {
    (number * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::{Form, Goal, Report, Row};

    fn report() -> Report {
        let rows = vec![
            Row::new("reads_vs_echo", "ratio", vec![0.91, 0.89, 0.95])
                .unwrap()
                .with(Goal::AtLeast(0.85)),
            Row::new("change", "ms", vec![2.5])
                .unwrap()
                .with(Goal::AtMost(2.0)),
            Row::new("reads", "1/s", vec![250_000.0, 123_456.0]).unwrap(),
        ];
        Report { name: "link", rows }
    }

    #[test]
    fn programs_read_every_field() {
        let shown = report().show(Form::Json).unwrap();
        let json: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let expected = serde_json::json!({"bench": "link", "rows": [
            {"name": "reads_vs_echo", "median": 0.91, "min": 0.89, "max": 0.95, "goal": 0.85, "met": true, "unit": "ratio"},
            {"name": "change", "median": 2.5, "min": 2.5, "max": 2.5, "goal": 2.0, "met": false, "unit": "ms"},
            {"name": "reads", "median": 186_728.0, "min": 123_456.0, "max": 250_000.0, "goal": null, "met": null,
                "unit": "1/s"},
        ]});
        assert_eq!(json, expected);
    }

    #[test]
    fn people_see_what_is_not_met() {
        let table = report().show(Form::Table).unwrap();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].ends_with(">= 0.85        met"), "{table}");
        assert!(lines[2].ends_with("<= 2           NOT MET"), "{table}");
        assert!(lines[3].ends_with("250000  1/s"), "{table}");
    }

    #[test]
    fn nothing_measured_is_no_row() {
        assert!(Row::new("reads", "1/s", vec![]).is_err());
    }

    #[test]
    fn what_nobody_minds_is_met_whatever_the_ratio_is() {
        let row = |added| {
            let goal = Goal::AtMostOr {
                bound: 2.0,
                added,
                most: 2.0,
            };
            Row::new("p99", "ratio", vec![3.0]).unwrap().with(goal)
        };
        assert_eq!(
            [1.9, 2.1].map(|added| row(added).is_met()),
            [Some(true), Some(false)]
        );
        assert!(row(1.9).line().ends_with("<= 2 or +2 ms  met"));
    }
}
