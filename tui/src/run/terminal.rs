//! The terminal: its modes, which are given back whatever happens, its keys as ours, and the signals that
//! end us.

use std::io::{self, IsTerminal as _, Stdout};
use std::mem::ManuallyDrop;
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossterm::cursor::Show;
use crossterm::event::{
    DisableMouseCapture, EnableMouseCapture, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers,
    MouseButton, MouseEvent, MouseEventKind, poll, read,
};
use crossterm::execute;
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use tokio::sync::mpsc;

use crate::app::Message;
use crate::app::key::{Key, Mouse, MouseAction};
use crate::error::TuiError;

/// Keys that wait for the loop; a terminal that pastes more waits.
const QUEUE: usize = 256;

/// How long the reader of keys waits before it looks whether it should end.
const POLL: Duration = Duration::from_millis(100);

type PanicHook = dyn Fn(&PanicHookInfo<'_>) + Send + Sync;

/// The terminal in our modes. Dropping it gives the terminal back; so does a panic.
pub struct Screen {
    /// What to draw on.
    pub terminal: ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>,
    hook: Arc<PanicHook>,
    panicked: Arc<AtomicBool>,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// If there is none, or it refuses.
    pub fn enter() -> Result<Self, TuiError> {
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Err(TuiError::NoTerminal);
        }
        let refused = |source| TuiError::Terminal { source };
        let hook: Arc<PanicHook> = panic::take_hook().into();
        let inner = Arc::clone(&hook);
        let panicked = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&panicked);
        panic::set_hook(Box::new(move |info| {
            // First the terminal, so that the message can be read; it may come from any thread.
            flag.store(true, Ordering::Relaxed);
            leave();
            inner(info);
        }));
        let entered = enable_raw_mode()
            .and_then(|()| execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture))
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        match entered {
            // Its own drop prints where the terminal is gone, which panics; `leave` shows the cursor.
            Ok(terminal) => Ok(Self { terminal: ManuallyDrop::new(terminal), hook, panicked }),
            Err(source) => {
                leave();
                restore_hook(hook);
                Err(refused(source))
            }
        }
    }

    /// Whether some thread panicked, and the terminal is not ours any more.
    pub fn is_lost(&self) -> bool {
        self.panicked.load(Ordering::Relaxed)
    }

    /// Columns and rows.
    ///
    /// # Errors
    /// If the terminal does not say.
    pub fn size(&self) -> io::Result<(u16, u16)> {
        size()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
        if !thread::panicking() {
            restore_hook(Arc::clone(&self.hook));
        }
    }
}

fn restore_hook(hook: Arc<PanicHook>) {
    panic::set_hook(Box::new(move |info| hook(info)));
}

/// Gives the terminal back. Nothing can be done where that fails, and it may be done twice.
fn leave() {
    let _ = execute!(io::stdout(), DisableMouseCapture, LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// Reads keys on a thread of its own until this is dropped.
pub struct Keys {
    /// What was typed.
    pub messages: mpsc::Receiver<Message>,
    stop: Arc<AtomicBool>,
    /// Closed when the thread has ended.
    ended: std::sync::mpsc::Receiver<()>,
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A reader that waits for room in the queue would never see the flag.
        self.messages.close();
        // It ends within one poll, so that keys typed after this are the shell's. On a terminal that hung up a
        // poll never returns, and nobody waits for it.
        let _ = self.ended.recv_timeout(4 * POLL);
    }
}

/// Starts reading keys.
pub fn keys() -> Keys {
    let (sender, messages) = mpsc::channel(QUEUE);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let (running, ended) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let _running: std::sync::mpsc::Sender<()> = running;
        while !stopped.load(Ordering::Relaxed) {
            let event = match poll(POLL) {
                Ok(false) => continue,
                Ok(true) => read(),
                Err(error) => Err(error),
            };
            // Without input there is nothing to wait for: the loop ends when the channel closes.
            let Ok(event) = event else { return };
            // The receiver lives as long as the loop; a full queue waits, so nothing typed is lost.
            if message(&event).is_some_and(|message| sender.blocking_send(message).is_err()) {
                return;
            }
        }
    });
    Keys { messages, stop, ended }
}

/// Ends when somebody asks the process to end.
#[cfg(unix)]
pub async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = kinds.map(signal) else {
        // Without handlers the default action ends the process.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
}

/// Ends when somebody asks the process to end.
#[cfg(not(unix))]
pub async fn ended() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn message(event: &Event) -> Option<Message> {
    match *event {
        Event::Key(event) => key(event).map(Message::Key),
        Event::Mouse(event) => mouse(event).map(Message::Mouse),
        Event::Resize(width, height) => Some(Message::Resize { width, height }),
        Event::FocusGained | Event::FocusLost | Event::Paste(_) => None,
    }
}

fn key(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    let ctrl = event.modifiers.contains(KeyModifiers::CONTROL);
    if event.modifiers.contains(KeyModifiers::ALT) {
        return None;
    }
    Some(match event.code {
        KeyCode::Char(c) if ctrl => Key::Ctrl(c.to_ascii_lowercase()),
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Esc,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => return None,
    })
}

fn mouse(event: MouseEvent) -> Option<Mouse> {
    let action = match event.kind {
        MouseEventKind::Down(MouseButton::Left) => MouseAction::Press,
        MouseEventKind::ScrollUp => MouseAction::WheelUp,
        MouseEventKind::ScrollDown => MouseAction::WheelDown,
        _ => return None,
    };
    Some(Mouse { x: event.column, y: event.row, action })
}
