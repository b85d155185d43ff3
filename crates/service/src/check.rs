//! `SERVICE check URL`: waits until an HTTP address answers with success. An image of a service holds nothing else that
//! could ask, and `helm test` has to.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: check [--limit SECONDS] [--then-post URL] http://HOST:PORT/PATH

Asks the address with GET until it answers with a status of 200 to 299, for at most --limit seconds (60).
--then-post is asked with POST afterwards, once. The exit code is 0, 1 in vain, 2 for a wrong command line.
";
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(250);
/// For one question.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of an answer only its first line counts.
const MOST: usize = 4096;

/// Runs the command if the command line (without the program's name) begins with `check`.
pub(crate) fn run(args: impl Iterator<Item = String>) -> Option<ExitCode> {
    let mut args = args.peekable();
    args.next_if(|word| word == "check")?;
    let wanted = match Wanted::read(args) {
        Ok(wanted) => wanted,
        Err(problem) => {
            tell(&format!("{problem}\n{USAGE}"));
            return Some(ExitCode::from(2));
        }
    };
    Some(wanted.carry_out())
}

#[derive(Debug, PartialEq)]
struct Wanted {
    limit: Duration,
    get: Address,
    post: Option<Address>,
}

#[derive(Debug, PartialEq)]
struct Address {
    authority: String,
    path: String,
}

impl Address {
    fn read(url: &str) -> Result<Self, String> {
        let problem = || format!("{url:?} is not of the form http://HOST:PORT/PATH");
        let rest = url.strip_prefix("http://").ok_or_else(problem)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let port = authority.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) || url.contains(char::is_whitespace) {
            return Err(problem());
        }
        Ok(Self {
            authority: authority.to_owned(),
            path: format!("/{path}"),
        })
    }

    /// Asks once; the status of the answer.
    fn ask(&self, method: &str) -> io::Result<u16> {
        let address = self.authority.to_socket_addrs()?.next();
        let address = address.ok_or_else(|| io::Error::other("the name has no address"))?;
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (path, host) = (&self.path, &self.authority);
        stream.write_all(
            format!(
                "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            .as_bytes(),
        )?;
        let mut answer = Vec::new();
        let mut part = [0; 512];
        while answer.len() < MOST && !answer.contains(&b'\n') {
            match stream.read(&mut part)? {
                0 => break,
                n => answer.extend_from_slice(&part[..n]),
            }
        }
        let text = String::from_utf8_lossy(&answer);
        let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
        status
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| io::Error::other("the answer is not HTTP"))
    }
}

impl Wanted {
    fn read(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut limit, mut get, mut post) = (Duration::from_secs(60), None, None);
        while let Some(word) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--limit" => {
                    let seconds = value()?.parse().ok().filter(|&n: &u64| (1..=86_400).contains(&n));
                    limit = Duration::from_secs(seconds.ok_or("--limit is a number of seconds")?);
                }
                "--then-post" => post = Some(Address::read(&value()?)?),
                flag if flag.starts_with('-') => return Err(format!("unknown flag {flag}")),
                url if get.is_none() => get = Some(Address::read(url)?),
                more => return Err(format!("{more:?} is one word too many")),
            }
        }
        let get = get.ok_or("an address is missing")?;
        Ok(Self { limit, get, post })
    }

    fn carry_out(&self) -> ExitCode {
        let mut left = self.limit;
        let last = loop {
            let last = match self.get.ask("GET") {
                Ok(200..=299) => break None,
                Ok(status) => format!("status {status}"),
                Err(error) => error.to_string(),
            };
            // Counted in pauses: what the questions took comes on top.
            left = left.saturating_sub(PAUSE);
            if left.is_zero() {
                break Some(last);
            }
            std::thread::sleep(PAUSE);
        };
        let url = format!("http://{}{}", self.get.authority, self.get.path);
        if let Some(last) = last {
            tell(&format!("{url} was not well within {:?}: {last}\n", self.limit));
            return ExitCode::FAILURE;
        }
        tell(&format!("{url} is well\n"));
        if let Some(post) = &self.post
            && let Err(error) = post.ask("POST")
        {
            tell(&format!(
                "asking http://{}{}: {error}\n",
                post.authority, post.path
            ));
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}

/// Unlike `eprint!` it does not panic when nobody reads it any more.
fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn read(words: &[&str]) -> Result<Wanted, String> {
        Wanted::read(words.iter().map(|&word| word.to_owned()))
    }

    #[test]
    fn other_words_are_no_check_and_wrong_ones_are_told() {
        assert!(run(["--port".to_owned()].into_iter()).is_none());
        assert!(read(&[]).unwrap_err().contains("missing"));
        assert!(read(&["https://a:1/"]).unwrap_err().contains("https://a:1/"));
        assert!(read(&["http://a/"]).unwrap_err().contains("http://HOST:PORT"));
        assert!(
            read(&["--limit", "soon", "http://a:1/"])
                .unwrap_err()
                .contains("--limit")
        );
        assert!(read(&["--then-post"]).unwrap_err().contains("--then-post"));
        assert!(
            read(&["http://a:1/", "http://b:1/"])
                .unwrap_err()
                .contains("http://b:1/")
        );
        let wanted = read(&["--limit", "3", "http://[::1]:80", "--then-post", "http://b:2/x"]).unwrap();
        assert_eq!(wanted.limit, Duration::from_secs(3));
        assert_eq!(
            wanted.get,
            Address {
                authority: "[::1]:80".to_owned(),
                path: "/".to_owned()
            }
        );
        assert_eq!(wanted.post.unwrap().path, "/x");
    }

    #[test]
    fn an_address_that_becomes_well_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/healthz", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for status in ["503 Not Yet", "204 Well", "200 Done"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 512];
                let n = stream.read(&mut head).unwrap();
                seen.push(
                    String::from_utf8_lossy(&head[..n])
                        .lines()
                        .next()
                        .unwrap_or("")
                        .to_owned(),
                );
                write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").unwrap();
            }
            seen
        });
        let wanted = read(&[&url, "--then-post", &url]).unwrap();
        assert_eq!(wanted.carry_out(), ExitCode::SUCCESS);
        let seen = server.join().unwrap();
        assert_eq!(
            seen,
            [
                "GET /healthz HTTP/1.1",
                "GET /healthz HTTP/1.1",
                "POST /healthz HTTP/1.1"
            ]
        );
    }

    #[test]
    fn a_limit_without_an_answer_is_a_failure() {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let wanted = read(&["--limit", "1", &format!("http://127.0.0.1:{port}/")]).unwrap();
        assert_eq!(wanted.carry_out(), ExitCode::FAILURE);
    }
}
