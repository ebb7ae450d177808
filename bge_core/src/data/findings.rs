//! A log of findings that stays small: of each code the first few in full, of the others the number.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::lines::Position;
use crate::issue::{Issue, Severity};

/// All findings of one code and severity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IssueGroup {
    /// The code, see [`super::codes`].
    pub code: &'static str,
    /// How bad.
    pub severity: Severity,
    /// How many there are.
    pub total: u64,
    /// The first of them.
    pub first: Vec<Issue>,
}

impl IssueGroup {
    /// The first of them, which says how many there are.
    pub fn summary(&self) -> Option<Issue> {
        let mut issue = self.first.first()?.clone();
        if self.total > 1 {
            issue.message = format!("{} ({} times)", issue.message, self.total);
        }
        Some(issue)
    }
}

/// Findings by severity (worst first) and code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssueLog {
    groups: BTreeMap<(Reverse<Severity>, &'static str), IssueGroup>,
    most: usize,
}

impl IssueLog {
    /// Keeps the first `most` findings of each code in full.
    pub fn new(most: usize) -> Self {
        Self {
            groups: BTreeMap::new(),
            most,
        }
    }

    /// Adds a finding; its message is written only if it is kept.
    pub fn add(
        &mut self,
        code: &'static str,
        severity: Severity,
        path: Option<&str>,
        at: Option<Position>,
        field: Option<&str>,
        message: fmt::Arguments<'_>,
    ) {
        let most = self.most;
        let group = self.group(code, severity);
        group.total += 1;
        if group.first.len() < most {
            let mut issue = Issue::new(code, severity, message.to_string());
            issue.path = path.map(str::to_owned);
            issue.line = at.map(|at| at.line);
            issue.element = at.and_then(|at| at.element?.try_into().ok());
            issue.field = field.map(str::to_owned);
            group.first.push(issue);
        }
    }

    /// Adds a finding that is there already.
    pub fn add_issue(&mut self, issue: Issue) {
        let most = self.most;
        let group = self.group(issue.code, issue.severity);
        group.total += 1;
        if group.first.len() < most {
            group.first.push(issue);
        }
    }

    /// Counts findings that are known by number only.
    pub fn add_total(&mut self, code: &'static str, severity: Severity, more: u64) {
        self.group(code, severity).total += more;
    }

    fn group(&mut self, code: &'static str, severity: Severity) -> &mut IssueGroup {
        self.groups
            .entry((Reverse(severity), code))
            .or_insert_with(|| IssueGroup {
                code,
                severity,
                total: 0,
                first: Vec::new(),
            })
    }

    /// Adds all findings of another log behind the own ones.
    pub fn merge(&mut self, other: &Self) {
        for group in other.groups.values() {
            let most = self.most;
            let own = self.group(group.code, group.severity);
            own.total += group.total;
            let room = most.saturating_sub(own.first.len());
            own.first.extend(group.first.iter().take(room).cloned());
        }
    }

    /// The findings, worst first.
    pub fn groups(&self) -> impl Iterator<Item = &IssueGroup> {
        self.groups.values()
    }

    /// How many findings of a severity there are.
    pub fn count(&self, severity: Severity) -> u64 {
        self.groups()
            .filter(|group| group.severity == severity)
            .map(|group| group.total)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_says_how_many_there_are() {
        let mut log = IssueLog::new(1);
        for line in 1..=2 {
            let message = format_args!("blank");
            log.add(
                "data.a",
                Severity::Warning,
                None,
                Some(line.into()),
                None,
                message,
            );
        }
        log.add("data.b", Severity::Warning, None, None, None, format_args!("odd"));
        let said: Vec<_> = log.groups().filter_map(IssueGroup::summary).collect();
        let messages: Vec<_> = said.iter().map(|issue| issue.message.as_str()).collect();
        assert_eq!(messages, ["blank (2 times)", "odd"]);
        assert_eq!(said[0].line, Some(1));
    }
}
