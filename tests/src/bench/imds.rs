//! The metadata service in a guest: reads with a token over TCP, on connections that stay and on new ones. And what a
//! guest writes.

use super::load::{Loader, faster, processor, rates, turns};
use super::peers::Peer;
use super::programs::Programs;
use super::relay;
use super::report::{Goal, Row};
use super::servers::{Agent, ControlPlane, Cores, Host, free_address};
use super::spread::against;
use super::{LOAD_CORE, TURNS};
use crate::cache::Cache;
use crate::progress;
use anyhow::{Context as _, Result, ensure};
use moorline_lab_load::plan::{Load, Measured, Place, Speaks, Target};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

/// How many connections there are that stay.
const CONNECTIONS: usize = 64;
/// How many there are at once where each has one request. The agent may not have seen the end of as many more when the
/// next ones come, and gives one user three quarters of its 128.
const NEW_CONNECTIONS: usize = 32;
/// For how long a turn runs before it counts, and for how long it counts, in milliseconds.
const WARM_UP_MS: u64 = 100;
const MEASURE_MS: u64 = 600;
/// What is asked: the leaf that every client asks for.
const PATH: &str = "/latest/meta-data/instance-id";

const IMDS: &str = "imds";
const NGINX: &str = "nginx";
const RATIO: &str = "ratio";
const RATE: &str = "requests/s";
const PROCESSOR: &str = "us of cpu/req";

/// All rows of the bench.
pub(super) async fn measure(programs: &Programs) -> Result<Vec<Row>> {
    let folder = tempfile::Builder::new()
        .prefix("moorline-bench-")
        .tempdir()
        .context("create a folder")?;
    let control = ControlPlane::start(programs, &folder.path().join("control"), Cores::Any).await?;
    let host = Host::start(programs, &control, folder.path(), 1).await?;
    let guest = host.guests().first().context("there is no guest")?;
    let address = free_address()?;
    let agent = Agent::with_imds(programs, guest, folder.path(), address).await?;
    let length = guest.instance.to_string().len();
    let nginx = Peer::nginx(&Cache::open()?, folder.path(), length).await?;
    let loader = Loader::new(programs, folder.path());
    let relayed = relay::measure(&loader, &control, &host, &agent);
    let relayed = progress::step("write as a guest", relayed).await?;
    let scene = Scene {
        loader,
        agent: agent.process()?,
        address,
        nginx,
    };
    let mut rows = progress::step("read on connections that stay", scene.staying()).await?;
    rows.extend(progress::step("read on new connections", scene.anew()).await?);
    rows.extend(relayed);
    Ok(rows)
}

struct Scene {
    loader: Loader,
    agent: u32,
    address: SocketAddr,
    nginx: Peer,
}

impl Scene {
    async fn staying(&self) -> Result<Vec<Row>> {
        let requests = |request| Speaks::Http {
            requests: vec![vec![request]],
        };
        let measured = self.measured(requests, CONNECTIONS).await?;
        let (imds, nginx) = (turns(&measured, IMDS)?, turns(&measured, NGINX)?);
        Ok(vec![
            Row::new("imds_read_c64_vs_nginx", RATIO, against(imds, nginx, faster))?.with(Goal::AtLeast(1.4)),
            Row::new("imds_read_c64", RATE, rates(imds))?,
            Row::new("nginx_tcp_c64", RATE, rates(nginx))?,
            Row::new("imds_read_c64_cpu", PROCESSOR, processor(imds))?,
            Row::new("nginx_tcp_c64_cpu", PROCESSOR, processor(nginx))?,
        ])
    }

    async fn anew(&self) -> Result<Vec<Row>> {
        let requests = |request| Speaks::HttpAnew { request };
        let measured = self.measured(requests, NEW_CONNECTIONS).await?;
        let (imds, nginx) = (turns(&measured, IMDS)?, turns(&measured, NGINX)?);
        Ok(vec![
            Row::new(
                "imds_new_connection_vs_nginx",
                RATIO,
                against(imds, nginx, faster),
            )?,
            Row::new("imds_new_connection", RATE, rates(imds))?,
            Row::new("nginx_new_connection", RATE, rates(nginx))?,
            Row::new("imds_new_connection_cpu", PROCESSOR, processor(imds))?,
            Row::new("nginx_new_connection_cpu", PROCESSOR, processor(nginx))?,
        ])
    }

    async fn measured(&self, speaks: impl Fn(String) -> Speaks, connections: usize) -> Result<Measured> {
        let token = format!("X-aws-ec2-metadata-token: {}\r\n", token(self.address)?);
        let nginx = self.nginx.tcp_place().context("nginx listens nowhere")?;
        // Nginx gets as long a head.
        let imds = (IMDS, self.agent, Place::Tcp(self.address), PATH);
        let nginx = (NGINX, self.nginx.server(), nginx, Peer::FILE);
        let targets = [imds, nginx].map(|(name, server, place, path)| Target {
            name: name.into(),
            core: LOAD_CORE,
            server,
            speaks: speaks(get(self.address, path, &token)),
            connections: vec![place; connections],
        });
        let load = Load {
            rounds: TURNS,
            warm_up_ms: WARM_UP_MS,
            measure_ms: MEASURE_MS,
            targets: targets.into(),
        };
        self.loader.drive(&load).await
    }
}

fn get(host: SocketAddr, path: &str, header: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{header}\r\n")
}

/// A token for as long as any bench takes.
fn token(address: SocketAddr) -> Result<String> {
    let request = format!(
        "PUT /latest/api/token HTTP/1.1\r\nHost: {address}\r\nX-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\
         Connection: close\r\n\r\n"
    );
    let mut stream = TcpStream::connect(address).context("connect to the metadata service")?;
    stream.write_all(request.as_bytes()).context("ask for a token")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read a token")?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "there is no token: {answer}");
    let (_, token) = answer.split_once("\r\n\r\n").context("the answer has no body")?;
    Ok(token.to_owned())
}
