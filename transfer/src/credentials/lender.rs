//! For tests: an HTTP server that plays whoever lends credentials, and tells what it was asked.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// What was asked: the request line, the headers in lower case, the body.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) line: String,
    pub(super) headers: Vec<String>,
    pub(super) body: String,
}

pub(super) struct Lender {
    pub(super) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Lender {
    /// Gives these answers (status and body) in turn, the last one for ever.
    pub(super) fn new(answers: &[(u16, String)]) -> Lender {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, answers) = (Arc::new(Mutex::new(vec![])), answers.to_vec());
        let log: Arc<Mutex<Vec<Asked>>> = asked.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(client);
                let mut lines = vec![];
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                        break;
                    }
                    lines.push(line.trim_end().to_string());
                }
                let headers: Vec<String> = lines.iter().skip(1).map(|line| line.to_ascii_lowercase()).collect();
                let length = headers.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let mut log = log.lock().unwrap();
                let (status, text) = &answers[log.len().min(answers.len() - 1)];
                log.push(Asked { line: lines[0].clone(), headers: lines[1..].to_vec(), body: String::from_utf8(body).unwrap() });
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                reader.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        });
        Lender { url, asked }
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}
