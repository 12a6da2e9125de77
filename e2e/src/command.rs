//! Running other programs to their end, with errors that show what they said.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// It could not be started, or it failed; the error ends with the last lines it wrote.
pub async fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    output(command).await
}

/// Like [`run`], for one line split at spaces: `ip("link add …")` reads better than a list. No quoting.
///
/// # Errors
/// As [`run`].
pub async fn line(text: &str) -> Result<String> {
    let mut words = text.split_whitespace();
    let program = words.next().context("an empty command")?;
    run(program, words).await
}

/// Runs a prepared command to its end and returns its standard output.
///
/// # Errors
/// As [`run`].
pub async fn output(mut command: Command) -> Result<String> {
    let shown = shown(&command);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    finish(&shown, output.with_context(|| format!("could not start {shown}"))?)
}

/// Runs a prepared command with this text as its standard input.
///
/// # Errors
/// As [`run`].
pub async fn feed(mut command: Command, input: &str) -> Result<String> {
    let shown = shown(&command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("could not start {shown}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program may end before it has read everything; its status says more than our broken pipe.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    finish(&shown, child.wait_with_output().await?)
}

fn shown(command: &Command) -> String {
    let command = command.as_std();
    let program = command.get_program().to_string_lossy();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy());
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn finish(shown: &str, output: std::process::Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    bail!("`{shown}` failed ({}):\n{}", output.status, tail(&said, 20))
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_and_failure_are_told_apart() -> Result<()> {
        assert_eq!(line("echo one two").await?, "one two\n");
        let error = run("sh", ["-c", "echo why >&2; exit 3"]).await.err().context("it must fail")?.to_string();
        assert!(error.contains("why") && error.contains('3'), "{error}");
        Ok(())
    }

    #[tokio::test]
    async fn input_arrives() -> Result<()> {
        assert_eq!(feed(Command::new("cat"), "text").await?, "text");
        Ok(())
    }

    #[test]
    fn tail_is_the_end() {
        assert_eq!(tail("a\nb\nc", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}
