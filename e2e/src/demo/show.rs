//! Where the story is written: columns, and on a terminal one line that moves.

use super::timeline::Row;
use std::io::{IsTerminal, Write};

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const PLAIN: &str = "\x1b[0m";
const CLEAR: &str = "\r\x1b[2K";
/// Columns that the moving line may take: a line that wraps cannot be cleared.
const WIDTH: usize = 78;

/// A place for the story. Plain text when it is not a terminal, or when `NO_COLOR` is set.
#[derive(Debug)]
pub struct Show {
    out: Out,
    colour: bool,
    moving: bool,
    zero: f64,
}

#[derive(Debug)]
enum Out {
    Stdout,
    Stderr,
}

impl Show {
    /// The demo's: standard output.
    pub fn stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { out: Out::Stdout, colour: terminal && std::env::var_os("NO_COLOR").is_none(), moving: terminal, zero: 0.0 }
    }

    /// The tests': standard error, plain, so that their own report stays readable.
    pub fn stderr() -> Self {
        Self { out: Out::Stderr, colour: false, moving: false, zero: 0.0 }
    }

    /// The moment that seconds are counted from (Unix seconds), and the columns' heads.
    pub(super) fn start(&mut self, zero: f64) {
        self.zero = zero;
        let head = self.paint(DIM, "seconds         $  step");
        self.line(&head);
    }

    /// One row of the timeline.
    pub(super) fn row(&mut self, row: &Row) {
        let (seconds, dollars) = (row.at - self.zero, row.dollars);
        let word = self.paint(BOLD, &format!("{:<12}", row.word));
        self.line(&format!("{seconds:>7.2}  {dollars:>8.4}  {word} {}", row.what));
    }

    /// The line that moves; nothing where lines cannot move.
    pub(super) fn moving(&mut self, at: f64, dollars: f64, doing: &str) {
        if self.moving {
            let text: String = format!("{:>7.1}  {dollars:>8.4}  … {doing}", at - self.zero).chars().take(WIDTH).collect();
            let text = self.paint(DIM, &text.replace('\n', " "));
            self.write(&format!("{CLEAR}{text}"));
        }
    }

    /// A heading with an empty line above.
    pub(super) fn heading(&mut self, text: &str) {
        let text = self.paint(BOLD, text);
        self.line(&format!("\n{text}"));
    }

    /// Something that was checked and holds.
    pub(super) fn held(&mut self, name: &str, what: &str) {
        let mark = self.paint(GREEN, "ok");
        self.line(&format!("  {mark} {name:<16} {what}"));
    }

    /// A figure.
    pub(super) fn figure(&mut self, name: &str, value: &str, what: &str) {
        self.line(&format!("     {name:<16} {value:>10}  {what}"));
    }

    fn line(&mut self, text: &str) {
        let clear = if self.moving { CLEAR } else { "" };
        self.write(&format!("{clear}{text}\n"));
    }

    fn paint(&self, with: &str, text: &str) -> String {
        if self.colour { format!("{with}{text}{PLAIN}") } else { text.to_owned() }
    }

    /// Nobody to tell when the reader has gone away.
    fn write(&mut self, text: &str) {
        let _ = match self.out {
            Out::Stdout => std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()),
            Out::Stderr => std::io::stderr().write_all(text.as_bytes()),
        };
    }
}
