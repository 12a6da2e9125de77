//! A TCP proxy in front of the store that counts requests and does something at the n-th.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::attempt::pid;
use crate::weed::weed;

#[derive(Default)]
struct Shared {
    requests: AtomicUsize,
    kill_at: usize,
    /// Kill only after the request was sent on: it is done, its answer is lost.
    after: bool,
    victim: AtomicU32,
}

pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Kills its victim with SIGKILL at the `kill_at`-th request (from 1; 0: never), before or after sending it on.
    pub(crate) fn new(kill_at: usize, after: bool) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { kill_at, after, ..Shared::default() });
        let theirs = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = theirs.clone();
                thread::spawn(move || serve(client, &shared));
            }
        });
        Proxy { port, shared }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn victim(&self, id: u32) {
        self.shared.victim.store(id, Ordering::SeqCst);
    }
}

fn serve(mut client: TcpStream, shared: &Shared) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", weed().port())) else { return };
    let (Ok(mut back), Ok(mut answers)) = (client.try_clone(), server.try_clone()) else { return };
    thread::spawn(move || {
        let _ = std::io::copy(&mut answers, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = client.read(&mut buffer) {
        if n == 0 {
            break;
        }
        // A client sends a request's head in one write; bodies here never contain such a line.
        let heads = buffer[..n].windows(11).filter(|w| w == b" HTTP/1.1\r\n").count();
        let before = shared.requests.fetch_add(heads, Ordering::SeqCst);
        let hit = shared.kill_at > before && shared.kill_at <= before + heads;
        if hit && !shared.after {
            kill(shared);
            break;
        }
        if server.write_all(&buffer[..n]).is_err() {
            break;
        }
        if hit {
            kill(shared);
            // Let the store finish what it was sent before the connection goes.
            thread::sleep(Duration::from_millis(300));
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}

fn kill(shared: &Shared) {
    let began = Instant::now();
    while shared.victim.load(Ordering::SeqCst) == 0 && began.elapsed() < Duration::from_secs(5) {
        thread::sleep(Duration::from_millis(1));
    }
    let _ = kill_process(pid(shared.victim.load(Ordering::SeqCst)), Signal::KILL);
}
