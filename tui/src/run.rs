//! The loop: the only place that reads keys, draws and waits. What a message means is `app`'s business,
//! what a screen looks like `view`'s. The terminal's modes are in [`terminal`].

mod terminal;

use std::time::{Duration, Instant};

use sandscope_proto::connect::Credentials;
use sandscope_recording::Recording;
use tokio::time::{MissedTickBehavior, interval};

use crate::app::{Effect, Message, State, update};
use crate::data::Link;
use crate::error::TuiError;
use crate::source::{Handle, LoadSymbols, live, replay};
use crate::view::{Theme, draw};
use terminal::{Screen, ended, keys};

/// How often time is told to the state, for ages and countdowns.
const TICK: Duration = Duration::from_millis(250);

/// Messages that are taken in before the next drawing.
const BATCH: usize = 256;

/// What the live terminal UI connects to.
#[derive(Clone, Debug)]
pub struct TopOptions {
    /// The collector's query service, as a URL or `host:port`.
    pub query_url: String,
    /// What the title calls it; usually the same.
    pub title: String,
    /// What is shown to the collector.
    pub credentials: Credentials,
}

/// The terminal UI over a collector, until the user quits or a signal ends it.
///
/// # Errors
/// If there is no terminal, or the address is none. A collector that is not there is no error: the screen
/// says so until it is.
pub async fn top(options: TopOptions) -> Result<(), TuiError> {
    let source = live::start(&options.query_url, &options.credentials)?;
    show(State::new(&options.title, Link::Connecting), source).await
}

/// The terminal UI over a recording, until the user quits or a signal ends it.
///
/// # Errors
/// If there is no terminal, or the recording cannot be read.
pub async fn open(recording: Recording, load: LoadSymbols) -> Result<(), TuiError> {
    let title = recording.name().rsplit('/').next().unwrap_or_default().to_owned();
    let link = Link::Recording {
        missing: recording.missing().map(crate::data::Shown::new),
        duration_s: recording.duration_s(),
    };
    show(State::new(&title, link), replay::start(recording, load)).await
}

async fn show(mut state: State, mut source: Handle) -> Result<(), TuiError> {
    let theme = Theme { plain: std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) };
    let terminal_error = |source| TuiError::Terminal { source };
    let mut screen = Screen::enter()?;
    let mut keys = keys();
    let mut stopped = std::pin::pin!(ended());
    let started = Instant::now();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        if screen.is_lost() {
            return Err(TuiError::Ended { task: "a thread beside the screen" });
        }
        let (width, height) = screen.size().map_err(terminal_error)?;
        if (width, height) != state.size {
            update(&mut state, Message::Resize { width, height });
        }
        screen.terminal.draw(|frame| draw(frame, &state, theme)).map_err(terminal_error)?;
        let mut message = tokio::select! {
            message = keys.messages.recv() => message.ok_or(TuiError::Ended { task: "the reader of keys" })?,
            delta = source.deltas.recv() => {
                Message::Delta(delta.ok_or(TuiError::Ended { task: "the source" })?)
            }
            _ = ticks.tick() => Message::Tick(started.elapsed().as_secs_f64()),
            () = &mut stopped => return Ok(()),
        };
        for _ in 0..BATCH {
            match update(&mut state, message) {
                Effect::None => {}
                Effect::Ask(query) => source.ask(query),
                Effect::Quit => return Ok(()),
            }
            // Everything that is there already belongs into the same picture.
            message = match (keys.messages.try_recv(), source.deltas.try_recv()) {
                (Ok(message), Err(_)) => message,
                (Err(_), Ok(delta)) => Message::Delta(delta),
                (Ok(message), Ok(delta)) => {
                    update(&mut state, Message::Delta(delta));
                    message
                }
                (Err(_), Err(_)) => break,
            };
        }
    }
}
