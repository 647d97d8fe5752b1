//! Requests, counted where they are served: by operation and status, and how long their answers took.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use moorline_daemon::metrics::{Histogram, Labels, Scrape, Unit};

use super::Reason;
use crate::http::openapi;

/// Up to how many microseconds answers take.
const MICROSECONDS: [u64; 12] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 30_000_000,
];
/// The statuses that are told from each other; any other counts as the first.
const STATUSES: [u16; 18] = [
    0, 200, 201, 204, 304, 400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 422, 429, 503,
];
/// What requests are counted under that are of no operation.
const NONE: &str = "none";

/// The counters of all requests. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Requests(Arc<Counters>);

#[derive(Debug)]
struct Counters {
    /// By the path as it is routed: where its operations are in the list.
    routes: HashMap<String, Vec<(Method, usize)>>,
    /// The first is for requests of no operation.
    operations: Vec<Operation>,
    reasons: [AtomicU64; Reason::ALL.len()],
    under_way: AtomicU64,
}

#[derive(Debug)]
struct Operation {
    name: String,
    statuses: [AtomicU64; STATUSES.len()],
    time: Histogram,
}

impl Operation {
    fn new(name: String) -> Self {
        Self {
            name,
            statuses: Default::default(),
            time: Histogram::new(Unit::Microseconds, &MICROSECONDS),
        }
    }

    fn labels(&self) -> Labels {
        vec![("operation", self.name.clone().into())]
    }
}

impl Default for Requests {
    /// Nothing was asked yet. The operations are those of the `OpenAPI` document.
    fn default() -> Self {
        let mut operations = vec![Operation::new(NONE.to_owned())];
        let mut routes: HashMap<String, Vec<(Method, usize)>> = HashMap::new();
        for (path, method, name) in openapi::operations() {
            let place = operations.len();
            operations.push(Operation::new(name));
            // A path at the end of a route may have slashes in it, which the document has no sign for.
            for route in [path.replace("{path}", "{*path}"), path] {
                routes.entry(route).or_default().push((method.clone(), place));
            }
        }
        Self(Arc::new(Counters {
            routes,
            operations,
            reasons: Default::default(),
            under_way: AtomicU64::new(0),
        }))
    }
}

/// A request that is being answered, or whose caller went away.
struct UnderWay<'a>(&'a AtomicU64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Requests {
    /// Counts a request, until the head of its answer is there.
    pub async fn count(State(requests): State<Self>, request: Request, next: Next) -> Response {
        let counters = &*requests.0;
        counters.under_way.fetch_add(1, Ordering::Relaxed);
        let _under_way = UnderWay(&counters.under_way);
        let operation = counters.operation(&request);
        let begun = Instant::now();
        let response = next.run(request).await;
        operation.time.observe_time(begun.elapsed());
        operation.statuses[place(response.status())].fetch_add(1, Ordering::Relaxed);
        if let Some(reason) = response.extensions().get::<Reason>() {
            counters.reasons[*reason as usize].fetch_add(1, Ordering::Relaxed);
        }
        response
    }

    /// Adds what was counted.
    pub fn add_to(&self, scrape: &mut Scrape) {
        let Counters {
            operations, reasons, ..
        } = &*self.0;
        let counted = operations.iter().flat_map(|operation| {
            let counts = STATUSES.iter().zip(&operation.statuses);
            counts.filter_map(|(status, count)| {
                let mut labels = operation.labels();
                labels.push(("status", shown(*status).into()));
                let count = count.load(Ordering::Relaxed);
                (count > 0).then_some((labels, count))
            })
        });
        let help = "Requests that were answered, by operation and status";
        scrape.counters("moorline_control_requests", help, counted.collect());
        let timed = operations
            .iter()
            .map(|operation| (operation.labels(), operation.time.read()));
        let help = "How long requests took until the head of their answer, by operation";
        let timed = timed.filter(|(_, time)| !time.is_empty()).collect();
        scrape.histograms("moorline_control_request_seconds", help, timed);
        let refused = Reason::ALL.iter().zip(reasons);
        let refused = refused.map(|(reason, count)| {
            (
                vec![("reason", reason.name().into())],
                count.load(Ordering::Relaxed),
            )
        });
        let help = "Requests that were refused, by reason";
        scrape.counters("moorline_control_requests_refused", help, refused.collect());
        #[expect(clippy::cast_precision_loss, reason = "there are never 2^53 of them")]
        let under_way = self.0.under_way.load(Ordering::Relaxed) as f64;
        let help = "Requests whose answer has not begun";
        scrape.gauge("moorline_control_requests_under_way", help, under_way);
    }
}

impl Counters {
    fn operation(&self, request: &Request) -> &Operation {
        let place = || {
            let path = request.extensions().get::<MatchedPath>()?;
            let routes = self.routes.get(path.as_str())?;
            let (_, place) = routes.iter().find(|(method, _)| method == request.method())?;
            Some(*place)
        };
        &self.operations[place().unwrap_or_default()]
    }
}

fn place(status: StatusCode) -> usize {
    let found = STATUSES.iter().position(|known| *known == status.as_u16());
    found.unwrap_or_default()
}

fn shown(status: u16) -> String {
    if status == 0 {
        "other".to_owned()
    } else {
        status.to_string()
    }
}
