//! Two servers: one that answers as HTTP does, and one that answers connection by connection with given bytes.

use std::collections::VecDeque;
use std::net::SocketAddr;

use axum::Router;
use moorline_client::{Client, Endpoint, Retries};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A server that ends with the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    tasks: JoinSet<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

/// Serves `router` over HTTP/1.1 and HTTP/2.
pub(crate) async fn serve(router: Router) -> Server {
    let (listener, address) = listen().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    Server { address, tasks }
}

/// Answers each connection's first request with the next of `answers`, byte for byte, and closes it. Each request
/// arrives in the channel as it was.
pub(crate) async fn script(answers: &[&str]) -> (Server, mpsc::UnboundedReceiver<String>) {
    let (listener, address) = listen().await;
    let mut answers: VecDeque<String> = answers.iter().map(|&answer| answer.to_owned()).collect();
    let (seen, requests) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(answer) = answers.pop_front() {
            let (mut stream, _) = listener.accept().await.unwrap();
            seen.send(read_request(&mut stream).await).unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    (Server { address, tasks }, requests)
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    while !is_whole(&text) {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.unwrap();
        assert_ne!(count, 0, "the request ended early: {text}");
        text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    text
}

fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else {
        return false;
    };
    let length = header(head, "content-length").map_or(0, |length| length.parse().unwrap());
    body.len() >= length
}

/// The value of a header of a request's text.
pub(crate) fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let lines = request.lines().take_while(|line| !line.is_empty());
    let mut pairs = lines.filter_map(|line| line.split_once(": "));
    pairs
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// An answer with a JSON body.
pub(crate) fn json(status: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// A client of `address` that asks once.
pub(crate) fn client(address: SocketAddr) -> Client {
    client_with(address, Retries::NEVER)
}

/// A client of `address` that asks as often as `retries` says.
pub(crate) fn client_with(address: SocketAddr, retries: Retries) -> Client {
    let url = format!("http://{address}").parse().unwrap();
    Client::new(Endpoint::new(url, "hunter2".parse().unwrap()).retrying(retries)).unwrap()
}
