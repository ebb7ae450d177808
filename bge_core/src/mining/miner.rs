//! Rows on their way from the search to what is written about them.

use rayon::prelude::*;

use super::corpus::{Corpus, Row, plain};
use super::event::{Reporter, Stage};
use super::heads::{Finder, Found, Question};
use super::ledger::{ledger_lines, rewrite, suspect_lines};
use super::report::Counts;
use super::select::{Candidate, Known, Rules, Verdict, choose, fill, judge, look};
use super::work::{PARTS, Parts};
use crate::error::{Error, ErrorKind, Result, bail};
use crate::inference::Reranker;
use crate::search::{Hit, SearchIndex, VectorStore};

/// Rows between two notes of what is done, where a cross-encoder takes long for each.
const RESCORED: usize = 32;

/// Everything that rows are mined with.
pub(super) struct Miner<'a> {
    pub(super) corpus: &'a Corpus,
    pub(super) rules: Rules,
    pub(super) stored: &'a VectorStore,
    pub(super) outside: Option<&'a VectorStore>,
    pub(super) queries: &'a VectorStore,
    pub(super) reranker: Option<&'a Reranker>,
    pub(super) finder: Option<&'a Finder<'a>>,
    /// Whether the score of the lowest positive is needed.
    pub(super) compares: bool,
    pub(super) suspects: bool,
    pub(super) ledger: bool,
}

/// A row on its way from its hits to what is written about it.
struct Mined {
    row: Row,
    candidates: Vec<Candidate>,
    positive: Option<f64>,
}

/// What one row adds to the parts.
struct Written {
    parts: [Vec<u8>; PARTS],
    counts: Counts,
}

impl Miner<'_> {
    /// Mines the rows that are not done yet, so many of them together.
    pub(super) fn all(
        &self,
        index: &mut dyn SearchIndex,
        together: usize,
        parts: &mut Parts,
        report: &mut Reporter<'_>,
    ) -> Result<()> {
        let total = self.corpus.rows();
        let mut done = parts.progress.rows;
        report.progress(Stage::Rows, done, total)?;
        while done < total {
            let rows: Vec<usize> = (done..total.min(done + together)).collect();
            let hits = self.search(index, &rows, &mut || report.progress(Stage::Rows, done, total))?;
            let step = if self.reranker.is_some() {
                RESCORED
            } else {
                rows.len()
            };
            for (rows, hits) in rows.chunks(step).zip(hits.chunks(step)) {
                let mined = rows
                    .par_iter()
                    .zip(hits)
                    .map(|(row, found)| self.look(*row, found));
                let mut mined = mined.collect::<Result<Vec<_>>>()?;
                if let Some(reranker) = self.reranker {
                    self.rescore(reranker, &mut mined)?;
                }
                let written = mined
                    .into_par_iter()
                    .map(|mined| self.write(mined))
                    .collect::<Result<Vec<_>>>()?;
                for Written { parts: lines, counts } in &written {
                    for (part, lines) in lines.iter().enumerate() {
                        parts.append(part, lines)?;
                    }
                    parts.progress.report.add(counts, self.rules.number);
                }
                done += rows.len();
                parts.progress.rows = done;
                parts.save()?;
                report.progress(Stage::Rows, done, total)?;
            }
        }
        Ok(())
    }

    /// The hits of rows, in their order. Rows with one query are searched once.
    fn search(
        &self,
        index: &mut dyn SearchIndex,
        rows: &[usize],
        alive: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Found>> {
        let mut asked: Vec<usize> = rows.iter().map(|row| self.corpus.asks(*row)).collect();
        let of_rows = asked.clone();
        asked.sort_unstable();
        asked.dedup();
        let (mut vectors, mut vector) = (Vec::with_capacity(asked.len() * self.queries.dim()), Vec::new());
        for query in &asked {
            self.queries.row(*query, &mut vector)?;
            vectors.extend_from_slice(&vector);
        }
        let searches = self.finder.is_none_or(Finder::searches_dense);
        let hits = if searches {
            index.search(&vectors, self.rules.end)?
        } else {
            vec![Vec::new(); asked.len()]
        };
        let hits = match self.finder {
            Some(finder) => {
                let questions = self.questions(&asked, hits);
                finder.find(
                    &questions,
                    self.rules.end,
                    &|query, text| self.product(query, text),
                    alive,
                )?
            }
            None => hits
                .into_iter()
                .map(|hits| Found {
                    hits,
                    ..Found::default()
                })
                .collect(),
        };
        let of_row = |query: &usize| {
            let place = asked.binary_search(query).ok();
            place
                .and_then(|place| hits.get(place))
                .cloned()
                .unwrap_or_default()
        };
        Ok(of_rows.iter().map(of_row).collect())
    }

    /// What several heads are asked, with the positives to compare with where vectors compare.
    fn questions(&self, asked: &[usize], hits: Vec<Vec<Hit>>) -> Vec<Question> {
        let compares = self.compares && self.reranker.is_none();
        let positives = |query: usize| {
            let row = self.corpus.asked().get(query).filter(|_| compares);
            row.map_or_else(Vec::new, |row| self.corpus.positives(*row as usize).to_vec())
        };
        asked
            .iter()
            .zip(hits)
            .map(|(query, dense)| Question {
                number: *query,
                dense,
                positives: positives(*query),
            })
            .collect()
    }

    fn known<'k>(&'k self, row: &Row) -> Known<'k> {
        let positives = self.corpus.positives(row.index);
        Known {
            positives,
            plains: positives.iter().map(|text| self.corpus.plain(*text)).collect(),
            query: plain(&row.query),
        }
    }

    fn look(&self, row: usize, found: &Found) -> Result<Mined> {
        let row = self.corpus.row(row)?;
        let mut candidates = look(&found.hits, &self.known(&row), &self.rules, |text| {
            self.corpus.plain(text)
        });
        for (candidate, heads) in candidates.iter_mut().zip(&found.heads) {
            candidate.heads = Some(*heads);
        }
        let positive = if self.finder.is_some() {
            found.positive
        } else if self.compares && self.reranker.is_none() {
            Some(self.lowest_positive(&row)?)
        } else {
            None
        };
        Ok(Mined {
            row,
            candidates,
            positive,
        })
    }

    /// The lowest inner product of a row's query with a positive.
    fn lowest_positive(&self, row: &Row) -> Result<f64> {
        let mut lowest = f64::INFINITY;
        for text in self.corpus.positives(row.index) {
            lowest = lowest.min(self.product(self.corpus.asks(row.index), *text)?);
        }
        Ok(lowest)
    }

    /// The inner product of a query with a text, summed as the search does it.
    fn product(&self, query: usize, text: u32) -> Result<f64> {
        let (mut numbers, mut vector) = (Vec::new(), Vec::new());
        self.queries.row(query, &mut numbers)?;
        let text = text as usize;
        match (text.checked_sub(self.stored.len()), self.outside) {
            (None, _) => self.stored.row(text, &mut vector)?,
            (Some(text), Some(outside)) => outside.row(text, &mut vector)?,
            (Some(_), None) => bail!(Internal, "a positive outside of the pool has no vector"),
        }
        let products = numbers.iter().zip(&vector);
        Ok(products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum())
    }

    /// Replaces the scores that decide by those of a cross-encoder.
    fn rescore(&self, reranker: &Reranker, mined: &mut [Mined]) -> Result<()> {
        let mut pairs: Vec<(&str, String)> = Vec::new();
        for Mined { row, candidates, .. } in mined.iter() {
            for text in self.corpus.positives(row.index) {
                pairs.push((&row.query, self.corpus.text(*text)?));
            }
            for candidate in candidates.iter().filter(|c| self.is_rescored(c)) {
                pairs.push((&row.query, self.corpus.text(candidate.text)?));
            }
        }
        let mut scores = reranker.compute_score(&pairs)?.into_iter();
        let short = || Error::new(ErrorKind::Internal, "a cross-encoder gave too few scores");
        let mut next = || -> Result<f64> {
            let score = scores.next().ok_or_else(short)?;
            if score.is_finite() {
                return Ok(f64::from(score));
            }
            bail!(
                NotFinite,
                "the cross-encoder gives {score}; the model is damaged or its training diverged"
            )
        };
        for Mined {
            row,
            candidates,
            positive,
        } in mined
        {
            let mut lowest = f64::INFINITY;
            for _ in self.corpus.positives(row.index) {
                lowest = lowest.min(next()?);
            }
            *positive = Some(lowest);
            for candidate in candidates.iter_mut().filter(|c| self.is_rescored(c)) {
                candidate.reranked = Some(next()?);
            }
        }
        Ok(())
    }

    /// Candidates in the range, and, where suspects are listed, those before it.
    fn is_rescored(&self, candidate: &Candidate) -> bool {
        candidate.verdict == Verdict::NotSampled
            || self.suspects && candidate.verdict == Verdict::OutsideRange
    }

    fn write(&self, mined: Mined) -> Result<Written> {
        let Mined {
            row,
            mut candidates,
            positive,
        } = mined;
        judge(&mut candidates, positive, &self.rules);
        let mut draws = choose(&mut candidates, &self.rules, row.index);
        if self.rules.fill {
            let known = self.known(&row);
            let plain = |text| self.corpus.plain(text);
            let filled = fill(
                &candidates,
                &known,
                &self.rules,
                self.stored.len(),
                &mut draws,
                plain,
            );
            candidates.extend(filled);
        }
        let mut chosen: Vec<&Candidate> = candidates
            .iter()
            .filter(|c| matches!(c.verdict, Verdict::Chosen | Verdict::Filled))
            .collect();
        // The hardest first; filled ones, which have no score, behind them in the order of their draws.
        chosen.sort_by(|a, b| b.deciding().total_cmp(&a.deciding()));
        let negatives: Vec<String> = chosen
            .iter()
            .map(|candidate| self.corpus.text(candidate.text))
            .collect::<Result<_>>()?;
        let mut counts = Counts::of(&candidates, self.rules.start);
        let (line, stale) = rewrite(&row.bytes, &negatives)?;
        counts.stale = stale;
        let (mut ledger, mut suspects) = (Vec::new(), Vec::new());
        if self.ledger {
            ledger_lines(&row, &candidates, positive, self.corpus, &mut ledger)?;
        }
        if self.suspects {
            let lines = &mut suspects;
            counts.suspected = suspect_lines(&row, &candidates, positive, &self.rules, self.corpus, lines)?;
        }
        Ok(Written {
            parts: [line, ledger, suspects],
            counts,
        })
    }
}
