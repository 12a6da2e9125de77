//! What an instance wrote to its console: why a node never joined, in its own words.

use crate::client::{Clients, call};
use base64::{Engine, engine::general_purpose::STANDARD};
use gpujob_provider_core::{ErrorClass, ProviderError};

/// What is kept of it, in bytes.
const KEPT: usize = 2048;

/// The end of the console, if there is one.
pub(crate) async fn read(clients: &Clients, id: &str) -> Result<Option<String>, ProviderError> {
    let ask = |latest: Option<bool>| clients.ec2.get_console_output().instance_id(id).set_latest(latest).send();
    let answer = match call("GetConsoleOutput", ask(Some(true))).await {
        // Only Nitro instances say what is on the console now; the others show what was there after their last boot.
        Err(error) if error.class == ErrorClass::Invalid => call("GetConsoleOutput", ask(None)).await,
        answer => answer,
    };
    match answer {
        Ok(answer) => Ok(answer.output().and_then(|output| STANDARD.decode(output.trim()).ok()).and_then(|bytes| end(&bytes))),
        Err(error) if error.class == ErrorClass::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The last whole characters that fit, without what only a terminal understands.
fn end(bytes: &[u8]) -> Option<String> {
    let text = plain(&String::from_utf8_lossy(bytes));
    let text = text.trim();
    let mut from = text.len().saturating_sub(KEPT);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    Some(text[from..].trim_start().to_owned()).filter(|text| !text.is_empty())
}

/// Without escape sequences (`ESC [ … letter`: systemd colours its words) and control characters other than line ends and tabs.
fn plain(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            if characters.next_if_eq(&'[').is_some() {
                while characters.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
        } else if !character.is_control() || matches!(character, '\n' | '\t') {
            kept.push(character);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_end_is_kept_in_whole_characters() {
        assert_eq!(end(b""), None);
        assert_eq!(end(b" \r\n"), None);
        assert_eq!(end("grüße\n".as_bytes()).as_deref(), Some("grüße"));
        let long = "ü".repeat(3000);
        let kept = end(format!("x{long}").as_bytes()).unwrap();
        assert_eq!(kept, "ü".repeat(KEPT / 2));
        let odd = end(format!("{long}x").as_bytes()).unwrap();
        assert!(odd.len() <= KEPT && odd.ends_with("üx"));
    }

    #[test]
    fn colours_and_stray_bytes_do_not_get_through() {
        let boot = b"[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mcontainerd\x1b[0m.\r\n\x07\xff\tdone\x1b";
        assert_eq!(end(boot).as_deref(), Some("[  OK  ] Started containerd.\n\u{fffd}\tdone"));
    }
}
