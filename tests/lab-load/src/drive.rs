//! The loop that is the same for every server: when a reply is whole, the next request goes.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use moorline_shared::EntryPath;

use crate::echo::preamble;
use crate::guest::Connected;
use crate::plan::{Load, Measured, MeasuredTarget, Place, Round, Speaks, Target};
use crate::poll::Poll;
use crate::processor;
use crate::reply::Reply;
use crate::socket::Socket;

/// More than any reply here has.
const BUFFER_BYTES: usize = 16 * 1024;
/// How long a server may take over the last replies.
const PATIENCE: Duration = Duration::from_secs(10);

/// Puts each target under load in turn, as often as the plan says. All connections stay open all the time.
///
/// Fails when a server hangs up or answers with anything but what was asked for.
pub fn drive(plan: &Load) -> Result<Measured> {
    let mut crews: Vec<Crew> = Vec::new();
    for target in &plan.targets {
        let crew = Crew::assemble(target, &crews).with_context(|| format!("connect to {}", target.name))?;
        crews.push(crew);
    }
    let mut rounds = vec![Vec::new(); crews.len()];
    for _ in 0..plan.rounds {
        for (crew, rounds) in crews.iter_mut().zip(&mut rounds) {
            let round = crew
                .round(plan)
                .with_context(|| format!("put load on {}", crew.name))?;
            rounds.push(round);
        }
    }
    let measured = crews.iter().zip(rounds).map(|(crew, rounds)| crew.tell(rounds));
    Ok(Measured {
        targets: measured.collect(),
    })
}

/// The connections to a target.
pub(crate) struct Crew {
    name: String,
    core: usize,
    server: u32,
    lanes: Vec<Lane>,
    poll: Poll,
    request_bytes: usize,
    reply_bytes: usize,
    /// How long each waits after a reply until it asks again.
    pace: Duration,
    /// Who waits, and until when, the first to ask first.
    resting: VecDeque<(Instant, usize)>,
}

/// One connection, with one request in flight at most.
struct Lane {
    socket: Socket,
    reply: Reply,
    requests: Vec<Vec<u8>>,
    next: usize,
    came: Vec<u8>,
    filled: usize,
    sent: Instant,
    /// Where every request has a connection of its own.
    anew: Option<Place>,
}

/// When what comes counts.
#[derive(Clone, Copy)]
struct Window {
    begin: Instant,
    end: Instant,
}

impl Crew {
    /// Connects them all.
    pub(crate) fn assemble(target: &Target, others: &[Self]) -> Result<Self> {
        let poll = Poll::new()?;
        let mut lanes = Vec::with_capacity(target.connections.len());
        for (nth, place) in target.connections.iter().enumerate() {
            let mut lane = lane(&target.speaks, nth, place, others)?;
            let sizes = lane.try_once()?;
            lane.socket.stop_blocking()?;
            poll.add(&lane.socket, nth)?;
            lanes.push((lane, sizes));
        }
        let (_, (request_bytes, reply_bytes)) = lanes.first().context("there are no connections")?;
        Ok(Self {
            name: target.name.clone(),
            core: target.core,
            server: target.server,
            poll,
            request_bytes: *request_bytes,
            reply_bytes: *reply_bytes,
            lanes: lanes.into_iter().map(|(lane, _)| lane).collect(),
            pace: Duration::ZERO,
            resting: VecDeque::new(),
        })
    }

    /// The same, with a pause after each reply until the connection's next request.
    pub(crate) fn at_pace(self, pace: Duration) -> Self {
        Self { pace, ..self }
    }

    /// One turn: everybody asks, for as long as the plan says.
    pub(crate) fn round(&mut self, plan: &Load) -> Result<Round> {
        processor::pin(self.core)?;
        let now = Instant::now();
        let begin = now + Duration::from_millis(plan.warm_up_ms);
        let end = begin + Duration::from_millis(plan.measure_ms);
        let count = u32::try_from(self.lanes.len()).context("there are too many connections")?;
        // Spread over the first pause, so that they don't all ask at once again and again.
        let due = (0..count).map(|nth| now + self.pace * nth / count);
        self.resting = due.zip(0..).collect();
        self.run_until(begin, &mut Vec::new())?;
        let taken = processor::seconds_of(self.server)?;
        let window = Window {
            begin: Instant::now(),
            end,
        };
        let mut times = Vec::with_capacity(1 << 20);
        self.run_until(window.end, &mut times)?;
        let seconds = window.begin.elapsed().as_secs_f64();
        let server_seconds = processor::seconds_of(self.server)? - taken;
        self.drain()?;
        ensure!(!times.is_empty(), "no reply came in time");
        times.sort_unstable();
        Ok(Round {
            replies: times.len() as u64,
            seconds,
            server_seconds,
            p50_us: quantile_us(&times, 50),
            p99_us: quantile_us(&times, 99),
        })
    }

    /// Takes replies and sends the next requests; notes each reply's time in nanoseconds.
    fn run_until(&mut self, end: Instant, times: &mut Vec<u32>) -> Result<()> {
        loop {
            self.wake()?;
            let ready: Vec<usize> = self.poll.wait(self.patience(end))?.collect();
            for place in ready {
                let lane = &mut self.lanes[place];
                if let Some(now) = lane.take()? {
                    times.push(u32::try_from((now - lane.sent).as_nanos()).unwrap_or(u32::MAX));
                    if self.pace.is_zero() {
                        self.ask(place, now)?;
                    } else {
                        self.resting.push_back((now + self.pace, place));
                    }
                }
            }
            if Instant::now() >= end {
                return Ok(());
            }
        }
    }

    /// Has those ask again that have waited long enough.
    fn wake(&mut self) -> Result<()> {
        while let Some((_, place)) = self.resting.pop_front_if(|(due, _)| *due <= Instant::now()) {
            self.ask(place, Instant::now())?;
        }
        Ok(())
    }

    /// For how long nothing happens by itself.
    fn patience(&self, end: Instant) -> Duration {
        let next = self.resting.front().map(|(due, _)| (*due).min(end));
        let left = next.map(|next| next.saturating_duration_since(Instant::now()));
        left.unwrap_or(PATIENCE).min(PATIENCE)
    }

    /// Sends a lane's next request, on another connection if each has one of its own.
    fn ask(&mut self, place: usize, now: Instant) -> Result<()> {
        let lane = &mut self.lanes[place];
        if let Some(server) = &lane.anew {
            lane.socket = Socket::connect(server)?;
            lane.socket.end_abruptly()?;
            lane.socket.stop_blocking()?;
            self.poll.add(&lane.socket, place)?;
        }
        lane.ask_at(now)
    }

    /// Takes the replies that are under way, and asks no more.
    fn drain(&mut self) -> Result<()> {
        let mut under_way = self.lanes.len() - self.resting.len();
        let deadline = Instant::now() + PATIENCE;
        while under_way > 0 {
            ensure!(Instant::now() < deadline, "{under_way} replies didn't come");
            for place in self.poll.wait(PATIENCE)? {
                under_way -= usize::from(self.lanes[place].take()?.is_some());
            }
        }
        Ok(())
    }

    fn tell(&self, rounds: Vec<Round>) -> MeasuredTarget {
        MeasuredTarget {
            name: self.name.clone(),
            request_bytes: self.request_bytes,
            reply_bytes: self.reply_bytes,
            rounds,
        }
    }
}

fn lane(speaks: &Speaks, nth: usize, place: &Place, others: &[Crew]) -> Result<Lane> {
    match speaks {
        Speaks::Echo { like } => echo_lane(place, like, others),
        Speaks::Link { path } => link_lane(place, path),
        Speaks::Redis { length } => redis_lane(place, nth, *length),
        Speaks::Http { requests } => {
            let list = requests
                .get(nth)
                .or(requests.last())
                .context("there are no requests")?;
            let list = list.iter().map(|request| request.clone().into_bytes()).collect();
            Ok(Lane::new(Socket::connect(place)?, Reply::Http, list))
        }
        Speaks::HttpAnew { request } => {
            let list = vec![request.clone().into_bytes()];
            let lane = Lane::new(Socket::connect(place)?, Reply::Http, list);
            Ok(Lane {
                anew: Some(place.clone()),
                ..lane
            })
        }
    }
}

fn echo_lane(place: &Place, like: &str, others: &[Crew]) -> Result<Lane> {
    let other = others.iter().find(|crew| crew.name == like);
    let other = other.with_context(|| format!("there is no {like} before it"))?;
    let mut socket = Socket::connect(place)?;
    socket.send(&preamble(other.request_bytes, other.reply_bytes)?)?;
    let request = vec![b'q'; other.request_bytes];
    Ok(Lane::new(socket, Reply::Bytes(other.reply_bytes), vec![request]))
}

fn link_lane(place: &Place, path: &EntryPath) -> Result<Lane> {
    let Place::Unix(socket) = place else {
        anyhow::bail!("a guest's connection goes to a unix socket");
    };
    let socket: &Path = socket;
    let (socket, request) = Connected::open(socket)?.into_requests(path)?;
    Ok(Lane::new(socket, Reply::Found, vec![request]))
}

fn redis_lane(place: &Place, nth: usize, length: usize) -> Result<Lane> {
    let mut socket = Socket::connect(place)?;
    let key = format!("bench:{nth:04}");
    let value = "r".repeat(length);
    socket.send(redis(&["SET", &key, &value]).as_bytes())?;
    let mut said = [0; 64];
    let count = socket.receive(&mut said)?;
    ensure!(
        said[..count] == *b"+OK\r\n",
        "redis says {}",
        String::from_utf8_lossy(&said[..count])
    );
    Ok(Lane::new(
        socket,
        Reply::Bulk,
        vec![redis(&["GET", &key]).into_bytes()],
    ))
}

/// A command as redis takes it.
fn redis(words: &[&str]) -> String {
    let words: Vec<_> = words
        .iter()
        .map(|word| format!("${}\r\n{word}\r\n", word.len()))
        .collect();
    format!("*{}\r\n{}", words.len(), words.concat())
}

impl Lane {
    fn new(socket: Socket, reply: Reply, requests: Vec<Vec<u8>>) -> Self {
        Self {
            socket,
            reply,
            requests,
            next: 0,
            came: vec![0; BUFFER_BYTES],
            filled: 0,
            sent: Instant::now(),
            anew: None,
        }
    }

    /// One request and its reply, blocking: how many bytes both have.
    fn try_once(&mut self) -> Result<(usize, usize)> {
        let request_bytes = self.requests.first().map_or(0, Vec::len);
        self.ask()?;
        loop {
            let count = self.socket.receive(&mut self.came[self.filled..])?;
            self.filled += count;
            if let Some(length) = self.reply.length(&self.came[..self.filled])? {
                self.filled = 0;
                return Ok((request_bytes, length));
            }
        }
    }

    fn ask(&mut self) -> Result<()> {
        self.ask_at(Instant::now())
    }

    fn ask_at(&mut self, now: Instant) -> Result<()> {
        self.sent = now;
        let request = self.requests.get(self.next).context("there are no requests")?;
        self.socket.send(request)?;
        self.next = (self.next + 1) % self.requests.len();
        Ok(())
    }

    /// Reads what came: when the reply became whole, if it did.
    fn take(&mut self) -> Result<Option<Instant>> {
        let count = self.socket.receive(&mut self.came[self.filled..])?;
        self.filled += count;
        let Some(length) = self.reply.length(&self.came[..self.filled])? else {
            ensure!(
                self.filled < self.came.len(),
                "the reply is longer than {BUFFER_BYTES} bytes"
            );
            return Ok(None);
        };
        // A host may say something of its own behind a reply, at any time; nobody else may.
        ensure!(
            length == self.filled || self.reply == Reply::Found,
            "more came than the reply"
        );
        self.came.copy_within(length..self.filled, 0);
        self.filled -= length;
        Ok(Some(Instant::now()))
    }
}

/// Nanoseconds in order go in; microseconds come out.
fn quantile_us(times: &[u32], percent: usize) -> f64 {
    let place = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times
        .get(place)
        .map_or(0.0, |nanoseconds| f64::from(*nanoseconds) / 1e3)
}

#[cfg(test)]
mod tests {
    use super::{quantile_us, redis};

    #[test]
    fn commands_are_as_redis_takes_them() {
        assert_eq!(redis(&["GET", "k1"]), "*2\r\n$3\r\nGET\r\n$2\r\nk1\r\n");
    }

    #[test]
    fn quantiles_are_of_what_was_seen() {
        let times: Vec<u32> = (0..200).map(|n| n * 1_000).collect();
        assert_eq!((quantile_us(&times, 50), quantile_us(&times, 99)), (100.0, 198.0));
        assert_eq!((quantile_us(&[7_000], 99), quantile_us(&[], 50)), (7.0, 0.0));
    }
}
