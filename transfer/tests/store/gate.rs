//! A TCP proxy in front of the store that can count, refuse, freeze, and kill a process at a byte.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use crate::attempt::pid;
use crate::weed::weed;

#[derive(Default)]
struct Shared {
    /// Bytes from clients, and to them.
    up: AtomicU64,
    down: AtomicU64,
    refuse: AtomicBool,
    frozen: AtomicBool,
    /// What happens when so many bytes have passed, both ways together; 0: nothing.
    at: AtomicU64,
    freezes: AtomicBool,
    hit: AtomicBool,
    victims: std::sync::Mutex<Vec<u32>>,
}

pub(crate) struct Gate {
    port: u16,
    shared: Arc<Shared>,
}

impl Gate {
    pub(crate) fn new() -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = theirs.clone();
                thread::spawn(move || serve(client, &shared));
            }
        });
        Gate { port, shared }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Bytes that clients have sent.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.up.load(SeqCst)
    }

    /// Answers every request with AccessDenied, or no longer.
    pub(crate) fn refuse(&self, on: bool) {
        self.shared.refuse.store(on, SeqCst);
    }

    /// Holds every byte back, or lets them go: what was under way arrives late.
    pub(crate) fn freeze(&self, on: bool) {
        self.shared.frozen.store(on, SeqCst);
    }

    /// Freezes once so many more bytes have passed.
    pub(crate) fn freeze_after(&self, bytes: u64) {
        self.shared.freezes.store(true, SeqCst);
        self.aim(bytes);
    }

    /// Kills these processes with SIGKILL once so many more bytes have passed.
    pub(crate) fn kill_after(&self, bytes: u64, victims: Vec<u32>) {
        *self.shared.victims.lock().unwrap() = victims;
        self.shared.freezes.store(false, SeqCst);
        self.aim(bytes);
    }

    fn aim(&self, bytes: u64) {
        self.shared.hit.store(false, SeqCst);
        self.shared.at.store((self.shared.up.load(SeqCst) + self.shared.down.load(SeqCst) + bytes).max(1), SeqCst);
    }

    /// Whether the byte has passed.
    pub(crate) fn hit(&self) -> bool {
        self.shared.hit.load(SeqCst)
    }
}

impl Shared {
    /// How many of these bytes may pass before the one that counts.
    fn pass(&self, counter: &AtomicU64, bytes: usize) -> usize {
        let before = self.up.load(SeqCst) + self.down.load(SeqCst);
        counter.fetch_add(bytes as u64, SeqCst);
        let at = self.at.load(SeqCst);
        if at == 0 || before + (bytes as u64) < at || self.hit.swap(true, SeqCst) {
            return bytes;
        }
        usize::try_from(at.saturating_sub(before)).unwrap_or(bytes).min(bytes)
    }

    fn strike(&self) {
        if self.freezes.load(SeqCst) {
            self.frozen.store(true, SeqCst);
            return;
        }
        for victim in self.victims.lock().unwrap().iter() {
            let _ = kill_process(pid(*victim), Signal::KILL);
        }
    }

    /// Sends bytes on, up to the one that counts, and the rest when nothing is frozen.
    fn forward(&self, to: &mut TcpStream, bytes: &[u8], counter: &AtomicU64) -> std::io::Result<()> {
        let first = self.pass(counter, bytes.len());
        self.wait();
        to.write_all(&bytes[..first])?;
        if first < bytes.len() {
            self.strike();
            self.wait();
            to.write_all(&bytes[first..])?;
        }
        Ok(())
    }

    fn wait(&self) {
        while self.frozen.load(SeqCst) {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn serve(mut client: TcpStream, shared: &Arc<Shared>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", weed().port())) else { return };
    let (Ok(mut back), Ok(mut answers)) = (client.try_clone(), server.try_clone()) else { return };
    let theirs = shared.clone();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = answers.read(&mut buffer) {
            if theirs.forward(&mut back, &buffer[..n], &theirs.down).is_err() {
                break;
            }
        }
        let _ = back.shutdown(Shutdown::Both);
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = client.read(&mut buffer) {
        if shared.refuse.load(SeqCst) {
            let body = "<Error><Code>AccessDenied</Code><Message>not now</Message></Error>";
            let length = body.len();
            let _ = write!(client, "HTTP/1.1 403 Forbidden\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            break;
        }
        if shared.forward(&mut server, &buffer[..n], &shared.up).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}
