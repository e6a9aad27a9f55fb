//! The task that owns the live state: a closed set of inputs, handled one after the other; the handler returns
//! what has to be done and the loop does it. A full queue pushes back on whoever asks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sandscope_model::SampleKind;
use sandscope_proto::query::{SeriesResponse, WorkloadRow};
use tokio::sync::{mpsc, oneshot};

use crate::account::Outcome;
use crate::config::Limits;
use crate::live::{Batch, FoldSpan, Folded, Key, Live, Selected};
use crate::state_recent::{Answer, Question};

/// Inputs that may wait.
const QUEUE: usize = 64;
/// Rows are computed at most this often, however many watch.
const FRESH: Duration = Duration::from_millis(500);
/// Series of one answer.
const MAX_SERIES: usize = 10_000;

/// Every row at one moment.
pub(crate) struct Snapshot {
    /// Sorted by key.
    pub rows: Vec<(Key, WorkloadRow)>,
    /// Live senders.
    pub hosts: u32,
    /// Bytes of everything that is held, and at most.
    pub bytes: [usize; 2],
}

pub(crate) type Reply<T> = oneshot::Sender<T>;

/// What the state's task is told and asked.
enum Input {
    Batch {
        batch: Batch,
        reply: Reply<Outcome>,
    },
    /// A batch that arrived so long ago.
    Past {
        batch: Batch,
        age: Duration,
        reply: Reply<Outcome>,
    },
    Rows {
        reply: Reply<Arc<Snapshot>>,
    },
    Fold {
        selected: Selected,
        kind: SampleKind,
        span: FoldSpan,
        reply: Reply<Folded>,
    },
    Series {
        name: String,
        selected: Selected,
        reply: Reply<SeriesResponse>,
    },
    Recent(Box<Question>),
}

/// What the loop does after an input.
enum Effect {
    Took(Reply<Outcome>, Outcome),
    Rows(Reply<Arc<Snapshot>>, Arc<Snapshot>),
    Folded(Reply<Folded>, Folded),
    Series(Reply<SeriesResponse>, SeriesResponse),
    Recent(Answer),
}

impl Effect {
    /// Answers. Whoever asked may be gone, then nobody misses the answer.
    fn perform(self) {
        match self {
            Self::Took(reply, outcome) => drop(reply.send(outcome)),
            Self::Rows(reply, rows) => drop(reply.send(rows)),
            Self::Folded(reply, folded) => drop(reply.send(folded)),
            Self::Series(reply, series) => drop(reply.send(series)),
            Self::Recent(answer) => answer.send(),
        }
    }
}

struct State {
    live: Live,
    max_bytes: usize,
    /// Time of the last batch: what the log brings back is not always in order.
    last: Duration,
    snapshot: Option<(Duration, Arc<Snapshot>)>,
}

impl State {
    fn handle(&mut self, now: Duration, input: Input) -> Effect {
        match input {
            Input::Batch { batch, reply } => Effect::Took(reply, self.apply(now, &batch)),
            Input::Past { batch, age, reply } => {
                Effect::Took(reply, self.apply(now.saturating_sub(age), &batch))
            }
            Input::Rows { reply } => Effect::Rows(reply, self.snapshot(now)),
            Input::Fold { selected, kind, span, reply } => {
                Effect::Folded(reply, self.live.fold(now, &selected, kind, span))
            }
            Input::Recent(question) => Effect::Recent(question.answer(now, &self.live)),
            Input::Series { name, selected, reply } => {
                let (points, truncated) = self.live.series(now, &name, &selected, MAX_SERIES);
                Effect::Series(reply, SeriesResponse { points, truncated })
            }
        }
    }

    fn apply(&mut self, at: Duration, batch: &Batch) -> Outcome {
        self.last = self.last.max(at);
        self.live.apply(self.last, batch)
    }

    fn snapshot(&mut self, now: Duration) -> Arc<Snapshot> {
        if let Some((taken, snapshot)) = &self.snapshot
            && now.saturating_sub(*taken) < FRESH
        {
            return snapshot.clone();
        }
        let mut rows = self.live.rows(now);
        rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let snapshot = Arc::new(Snapshot {
            rows,
            hosts: self.live.senders(now),
            bytes: [self.live.bytes(), self.max_bytes],
        });
        self.snapshot = Some((now, snapshot.clone()));
        snapshot
    }
}

/// The state's task has ended: the collector is shutting down.
#[derive(Debug)]
pub(crate) struct Stopped;

impl From<Stopped> for tonic::Status {
    fn from(Stopped: Stopped) -> Self {
        Self::unavailable("the collector is shutting down")
    }
}

/// How others reach the state.
#[derive(Clone)]
pub(crate) struct Handle {
    inputs: mpsc::Sender<Input>,
}

/// The state, and the way to it. The task is the future, for the caller to run; it ends when nobody can reach
/// the state any more.
pub(crate) fn new(limits: &Limits) -> (Handle, impl Future<Output = ()> + Send + 'static) {
    let (inputs, mut waiting) = mpsc::channel(QUEUE);
    let mut state = State {
        live: Live::new(limits),
        max_bytes: limits.live_bytes(),
        last: Duration::ZERO,
        snapshot: None,
    };
    // What is brought back from the log arrived before the start.
    let past = limits.retention;
    let task = async move {
        let start = Instant::now();
        while let Some(input) = waiting.recv().await {
            let now = past + start.elapsed();
            state.live.set_clock(now, crate::log::now());
            state.handle(now, input).perform();
        }
    };
    (Handle { inputs }, task)
}

impl Handle {
    /// Asks for what came last.
    pub(crate) async fn recent<T>(&self, question: impl FnOnce(Reply<T>) -> Question) -> Result<T, Stopped> {
        self.ask(|reply| Input::Recent(Box::new(question(reply)))).await
    }

    async fn ask<T>(&self, input: impl FnOnce(Reply<T>) -> Input) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.inputs.send(input(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Takes a batch in; returns when it counts.
    pub(crate) async fn apply(&self, batch: Batch) -> Result<Outcome, Stopped> {
        self.ask(|reply| Input::Batch { batch, reply }).await
    }

    /// Takes a batch in that arrived so long ago. Before any other, and the older ones first.
    pub(crate) async fn bring_back(&self, batch: Batch, age: Duration) -> Result<Outcome, Stopped> {
        self.ask(|reply| Input::Past { batch, age, reply }).await
    }

    /// All rows, as of half a second ago at most.
    pub(crate) async fn rows(&self) -> Result<Arc<Snapshot>, Stopped> {
        self.ask(|reply| Input::Rows { reply }).await
    }

    /// Stacks of a selection, heaviest first.
    pub(crate) async fn fold(
        &self,
        selected: Selected,
        kind: SampleKind,
        span: FoldSpan,
    ) -> Result<Folded, Stopped> {
        self.ask(|reply| Input::Fold { selected, kind, span, reply }).await
    }

    /// Series of a selection, by name.
    pub(crate) async fn series(&self, name: String, selected: Selected) -> Result<SeriesResponse, Stopped> {
        self.ask(|reply| Input::Series { name, selected, reply }).await
    }
}
