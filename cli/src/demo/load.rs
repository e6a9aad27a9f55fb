//! The demo's load: each guest called at its own pace with real input, at random distances.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sandscope_host::runner::{Command, Grants, GuestFile, HttpGuest, RunError, Runner, Stdio};
use tokio::runtime::Runtime;

/// A guest of the demo.
struct Plan {
    /// Name of the file without its ending, and of the workload.
    guest: &'static str,
    version: &'static str,
    /// Mean time between calls.
    pause: Duration,
    kind: Kind,
}

enum Kind {
    /// A command with one of these sets of arguments, by turns.
    Command(&'static [&'static [&'static str]]),
    /// An exported function with arguments.
    Function(&'static str, &'static [&'static str]),
    /// Requests of sessions: log in, look, work.
    Sessions,
}

const PLANS: &[Plan] = &[
    Plan { guest: "session", version: "2.3.1", pause: Duration::from_millis(60), kind: Kind::Sessions },
    Plan {
        guest: "analytics",
        version: "1.4.0",
        pause: Duration::from_millis(700),
        kind: Kind::Command(&[&["--generate", "4000", "1"], &["--generate", "9000", "2"]]),
    },
    Plan {
        guest: "inference",
        version: "0.9.2",
        pause: Duration::from_millis(300),
        kind: Kind::Command(&[&["--batch", "60"], &["17"], &["--batch", "120"]]),
    },
    Plan {
        guest: "image",
        version: "3.0.0",
        pause: Duration::from_millis(800),
        kind: Kind::Command(&[&["-", "-", "320"], &["-", "-", "96"]]),
    },
    Plan {
        guest: "pricing",
        version: "5.1.0",
        pause: Duration::from_millis(600),
        kind: Kind::Command(&[&["--generate", "8000", "1"], &["--generate", "3000", "7"]]),
    },
    Plan {
        guest: "gc",
        version: "0.2.0",
        pause: Duration::from_millis(500),
        kind: Kind::Function("run", &["300"]),
    },
    Plan {
        guest: "parallel",
        version: "1.0.0",
        pause: Duration::from_secs(2),
        kind: Kind::Command(&[&["4", "4000"]]),
    },
    Plan {
        guest: "crash",
        version: "0.0.7",
        pause: Duration::from_secs(3),
        kind: Kind::Command(&[&["ok"], &["div0"], &["ok"], &["oob"], &["structs", "20"], &["panic", "demo"]]),
    },
];

/// Keeps the tasks of the load alive.
pub struct Load(tokio::sync::watch::Sender<bool>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// Loads the guests one by one, small ones first, and starts each one's load as soon as it is compiled.
pub fn start(runtime: &Runtime, runner: Runner, guests: PathBuf, seed: u64) -> Load {
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let handle = runtime.handle().clone();
    runtime.spawn_blocking(move || {
        let photo: Bytes = std::fs::read(guests.join("data/photo.jpg")).unwrap_or_default().into();
        for (index, plan) in PLANS.iter().enumerate() {
            if *stopped.borrow() {
                return;
            }
            // A guest that is missing from the folder leaves the others running.
            let Ok(guest) = compile(&runner, &guests, plan) else { continue };
            let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (index as u64 + 1));
            let (mut stopped, photo) = (stopped.clone(), photo.clone());
            handle.spawn(async move {
                tokio::select! {
                    () = keep_calling(guest, plan, photo, random) => {}
                    _ = stopped.changed() => {}
                }
            });
        }
    });
    Load(stop)
}

enum Guest {
    Command(Arc<Command>),
    Http(HttpGuest),
}

fn compile(runner: &Runner, guests: &Path, plan: &Plan) -> Result<Guest, RunError> {
    let file =
        GuestFile::read(&guests.join(format!("{}.wasm", plan.guest)), Some(plan.guest), Some(plan.version))?;
    Ok(match plan.kind {
        Kind::Sessions => Guest::Http(runner.http(&file)?),
        Kind::Command(_) | Kind::Function(..) => Guest::Command(Arc::new(runner.command(&file)?)),
    })
}

/// Calls without end. How calls end is what telemetry is for; nothing here looks at it.
async fn keep_calling(guest: Guest, plan: &'static Plan, photo: Bytes, mut random: Random) {
    let mut cookie = None;
    for turn in 0.. {
        tokio::time::sleep(plan.pause.mul_f64(random.exponential())).await;
        match (&guest, &plan.kind) {
            (Guest::Http(guest), _) => cookie = session(guest, cookie, &mut random).await,
            (Guest::Command(command), Kind::Command(sets)) => {
                let mut args = vec![plan.guest.to_owned()];
                args.extend(sets[turn % sets.len()].iter().map(|arg| (*arg).to_owned()));
                let grants = Grants {
                    args,
                    stdio: Stdio::Given { stdin: photo.clone() },
                    max_memory: Some(256 << 20),
                    ..Grants::default()
                };
                metrics::counter!("demo.jobs", "guest" => plan.guest).increment(1);
                let _ = command.run(&grants).await;
            }
            (Guest::Command(command), Kind::Function(function, args)) => {
                let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
                let grants = Grants { stdio: Stdio::Given { stdin: Bytes::new() }, ..Grants::default() };
                let _ = command.invoke(function, &args, &grants).await;
            }
            (Guest::Command(_), Kind::Sessions) => {}
        }
    }
}

/// One request of a session; the cookie for the next.
async fn session(guest: &HttpGuest, cookie: Option<String>, random: &mut Random) -> Option<String> {
    let request = http::Request::builder().header("host", "demo.local");
    let request = match &cookie {
        None => request.method("POST").uri("/login").body(Bytes::from_static(br#"{"user":"ada"}"#)),
        Some(cookie) if random.next().is_multiple_of(8) => {
            request.method("POST").uri("/logout").header("cookie", cookie).body(Bytes::new())
        }
        Some(cookie) if random.next().is_multiple_of(2) => {
            request.uri("/me").header("cookie", cookie).body(Bytes::new())
        }
        Some(cookie) => {
            let uri = format!("/work?n={}", 200 + random.next() % 1800);
            request.uri(uri).header("cookie", cookie).body(Bytes::new())
        }
    };
    let grants = Grants { stdio: Stdio::Given { stdin: Bytes::new() }, ..Grants::default() };
    let logged_out = request.as_ref().is_ok_and(|request| request.uri().path() == "/logout");
    let answer = guest.request(request.ok()?, &grants).await.ok()?;
    let fresh = answer.headers.iter().find(|(name, _)| name == "set-cookie");
    let fresh = fresh.map(|(_, value)| value.split(';').next().unwrap_or_default().to_owned());
    if logged_out { None } else { fresh.or(cookie) }
}

/// A small generator (SplitMix64): the load needs variety, not unpredictability.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Exponentially distributed with mean 1, at most 4: arrivals of independent clients.
    fn exponential(&mut self) -> f64 {
        let uniform = ((self.next() >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        (-uniform.ln()).min(4.0)
    }
}
