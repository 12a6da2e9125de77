//! User data: a MIME multi-part of NodeConfigs and shell scripts, or a bare script.

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};

/// One part that an instance acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// `application/node.eks.aws`: the YAML of a NodeConfig.
    NodeConfig(String),
    /// `text/x-shellscript`: run as root before the kubelet starts, as cloud-init does.
    Script(String),
    /// Anything else: its content type. A real instance would hand it to cloud-init; the lab only says so.
    Other(String),
}

/// The parts of a user data text, in order. An empty text has none.
///
/// # Errors
/// A multi-part without a boundary, or a part that is not in the encoding that it says.
pub fn parts(text: &str) -> Result<Vec<Part>> {
    let text = text.replace("\r\n", "\n");
    if text.trim().is_empty() {
        return Ok(vec![]);
    }
    if text.starts_with("#!") {
        return Ok(vec![Part::Script(text)]);
    }
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let content = header(head, "content-type").unwrap_or_default();
    if !content.to_lowercase().starts_with("multipart/") {
        return Ok(vec![part(head, body)?]);
    }
    let boundary = parameter(&content, "boundary").context("a multi-part user data has a boundary")?;
    let delimiter = format!("--{boundary}");
    let mut found = vec![];
    let mut current: Option<String> = None;
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix(&delimiter)
            && matches!(rest.trim(), "" | "--")
        {
            if let Some(done) = current.take() {
                found.push(whole(&done)?);
            }
            if rest.trim() == "--" {
                return Ok(found);
            }
            current = Some(String::new());
        } else if let Some(current) = &mut current {
            current.push_str(line);
            current.push('\n');
        }
    }
    if let Some(done) = current {
        found.push(whole(&done)?);
    }
    Ok(found)
}

/// A part with its headers; a part may have none, and then starts with an empty line.
fn whole(text: &str) -> Result<Part> {
    match text.strip_prefix('\n') {
        Some(body) => part("", body),
        None => {
            let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
            part(head, body)
        }
    }
}

fn part(head: &str, body: &str) -> Result<Part> {
    let content = header(head, "content-type").unwrap_or_else(|| "text/plain".to_owned());
    let encoding = header(head, "content-transfer-encoding").unwrap_or_default();
    let body = if encoding.eq_ignore_ascii_case("base64") {
        let packed: String = body.split_whitespace().collect();
        String::from_utf8(STANDARD.decode(packed).context("a base64 part")?)?
    } else {
        body.to_owned()
    };
    let kind = content.split(';').next().unwrap_or_default().trim().to_lowercase();
    Ok(match kind.as_str() {
        "application/node.eks.aws" => Part::NodeConfig(body),
        "text/x-shellscript" => Part::Script(body),
        _ => Part::Other(kind),
    })
}

/// A header's value, with folded lines joined.
fn header(head: &str, name: &str) -> Option<String> {
    let mut value: Option<String> = None;
    for line in head.lines() {
        if let Some(value) = value.as_mut() {
            if !line.starts_with([' ', '\t']) {
                break;
            }
            value.push(' ');
            value.push_str(line.trim());
        } else if let Some((found, rest)) = line.split_once(':')
            && found.trim().eq_ignore_ascii_case(name)
        {
            value = Some(rest.trim().to_owned());
        }
    }
    value
}

fn parameter(value: &str, name: &str) -> Option<String> {
    value.split(';').skip(1).find_map(|parameter| {
        let (found, value) = parameter.split_once('=')?;
        found.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EKS: &str = "MIME-Version: 1.0\nContent-Type: multipart/mixed;\n boundary=\"//\"\n\n--//\n\
        Content-Type: application/node.eks.aws\n\nkind: NodeConfig\n--//\n\
        Content-Type: text/x-shellscript; charset=\"us-ascii\"\n\n#!/bin/bash\necho extra\n--//--\n";

    #[test]
    fn an_eks_text_has_its_parts_in_order() -> Result<()> {
        let expected = [Part::NodeConfig("kind: NodeConfig\n".into()), Part::Script("#!/bin/bash\necho extra\n".into())];
        assert_eq!(parts(EKS)?, expected);
        assert_eq!(parts(&EKS.replace('\n', "\r\n"))?, expected);
        Ok(())
    }

    #[test]
    fn a_bare_script_is_a_script() -> Result<()> {
        assert_eq!(parts("#!/bin/sh\ntrue\n")?, [Part::Script("#!/bin/sh\ntrue\n".into())]);
        assert_eq!(parts("\n")?, []);
        Ok(())
    }

    #[test]
    fn base64_parts_and_strangers() -> Result<()> {
        let text = "Content-Type: multipart/mixed; boundary=B\n\n--B\nContent-Type: text/x-shellscript\n\
            Content-Transfer-Encoding: base64\n\nIyEvYmlu\nL3NoCg==\n--B\nContent-Type: text/cloud-config\n\na: 1\n--B--\n";
        assert_eq!(parts(text)?, [Part::Script("#!/bin/sh\n".into()), Part::Other("text/cloud-config".into())]);
        assert!(parts("Content-Type: multipart/mixed\n\nx").is_err());
        Ok(())
    }
}
