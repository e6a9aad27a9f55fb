//! The routes, without any I/O: a request and its surroundings in, a response out.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cookie::{self, Claims, Signer};

const LIFETIME_S: u64 = 3_600;

/// The longest user name, in bytes.
const LONGEST_USER: usize = 64;

/// The most links of `GET /work`: seconds of CPU, not minutes.
const MOST_WORK: u64 = 10_000_000;

/// Sessions that this instance remembers; the oldest to end makes room.
const MOST_SESSIONS: usize = 10_000;

static SESSIONS: Mutex<Option<HashMap<String, Remembered>>> = Mutex::new(None);

struct Remembered {
    expires: u64,
    requests: u64,
    logged_out: bool,
}

pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    /// The `Cookie` header, or empty.
    pub cookies: String,
    pub body: Vec<u8>,
}

/// What a response depends on besides the request.
pub struct Context {
    /// Seconds since 1970.
    pub now_s: u64,
    /// A random number, new for each request.
    pub nonce: u64,
    pub signer: Signer,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub body: Value,
    pub set_cookie: Option<String>,
    /// The methods that a 405 has to name.
    pub allow: Option<&'static str>,
}

impl Response {
    fn ok(body: Value) -> Self {
        Self { status: 200, body, set_cookie: None, allow: None }
    }

    pub fn error(status: u16, message: &str) -> Self {
        let body = json!({"error": {"status": status, "message": message}});
        Self { status, body, set_cookie: None, allow: None }
    }

    fn not_allowed(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::error(405, "this route has another method") }
    }
}

#[inline(never)]
pub fn answer(request: &Request, context: &Context) -> Response {
    match (request.path.as_str(), request.method.as_str()) {
        ("/", "GET") => info(),
        ("/login", "POST") => login(request, context),
        ("/me", "GET") => me(request, context),
        ("/logout", "POST") => logout(request, context),
        ("/work", "GET") => work(request, context),
        ("/" | "/me" | "/work", _) => Response::not_allowed("GET"),
        ("/login" | "/logout", _) => Response::not_allowed("POST"),
        _ => Response::error(404, "there is no such route"),
    }
}

fn info() -> Response {
    let sessions = with_sessions(|sessions| sessions.len());
    Response::ok(json!({
        "service": "session",
        "version": env!("CARGO_PKG_VERSION"),
        "sessions": sessions,
        "routes": ["GET /", "POST /login", "GET /me", "POST /logout", "GET /work?n=N"],
    }))
}

#[derive(Deserialize)]
struct Login {
    user: String,
}

fn login(request: &Request, context: &Context) -> Response {
    let Ok(Login { user }) = serde_json::from_slice(&request.body) else {
        return Response::error(400, r#"expected JSON like {"user": "ada"}"#);
    };
    if user.is_empty() || user.len() > LONGEST_USER || user.chars().any(char::is_control) {
        return Response::error(400, "a user is 1 to 64 bytes without control characters");
    }
    let claims = Claims { user, id: format!("{:016x}", context.nonce), expires: context.now_s + LIFETIME_S };
    let sealed = context.signer.seal(&claims);
    remember(&claims, context.now_s);
    let body = json!({"user": claims.user, "session": claims.id, "expires": claims.expires});
    Response {
        set_cookie: Some(format!(
            "{}={sealed}; Path=/; Max-Age={LIFETIME_S}; HttpOnly; SameSite=Strict",
            cookie::NAME
        )),
        ..Response::ok(body)
    }
}

fn me(request: &Request, context: &Context) -> Response {
    match authenticate(request, context) {
        Ok(claims) => {
            let requests = remember(&claims, context.now_s);
            Response::ok(json!({
                "user": claims.user,
                "session": claims.id,
                "expires_in": claims.expires - context.now_s,
                "requests": requests,
            }))
        }
        Err(response) => response,
    }
}

fn logout(request: &Request, context: &Context) -> Response {
    match authenticate(request, context) {
        Ok(claims) => {
            remember(&claims, context.now_s);
            with_sessions(|sessions| {
                if let Some(session) = sessions.get_mut(&claims.id) {
                    session.logged_out = true;
                }
            });
            Response {
                set_cookie: Some(format!("{}=; Path=/; Max-Age=0; HttpOnly", cookie::NAME)),
                ..Response::ok(json!({"user": claims.user, "logged_out": true}))
            }
        }
        Err(response) => response,
    }
}

/// Who asks, by the cookie alone; this instance only adds who has logged out here.
fn authenticate(request: &Request, context: &Context) -> Result<Claims, Response> {
    let Some(value) = cookie::find(&request.cookies) else {
        return Err(Response::error(401, "log in first: there is no session cookie"));
    };
    let Some(claims) = context.signer.open(value) else {
        return Err(Response::error(401, "the session cookie is not genuine"));
    };
    let logged_out = with_sessions(|sessions| sessions.get(&claims.id).is_some_and(|known| known.logged_out));
    if claims.expires <= context.now_s || logged_out {
        return Err(Response::error(401, "the session has ended"));
    }
    Ok(claims)
}

/// A load by request: a chain of `n` HMACs, each over the one before.
fn work(request: &Request, context: &Context) -> Response {
    let n = request.query.split('&').find_map(|pair| pair.strip_prefix("n="));
    let Some(n) = n.map_or(Some(1_000), |n| n.parse().ok()).filter(|n| *n <= MOST_WORK) else {
        return Response::error(400, "n is a number up to 10000000");
    };
    let digest = chain(&context.signer, n);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Response::ok(json!({"n": n, "digest": hex}))
}

#[inline(never)]
fn chain(signer: &Signer, links: u64) -> [u8; 32] {
    let mut digest = [0; 32];
    for _ in 0..links {
        digest = signer.digest(&digest);
    }
    digest
}

/// Counts a request of a session and returns how many this instance has seen.
fn remember(claims: &Claims, now_s: u64) -> u64 {
    with_sessions(|sessions| {
        if !sessions.contains_key(&claims.id) && sessions.len() >= MOST_SESSIONS {
            forget(sessions, now_s);
        }
        let session = sessions.entry(claims.id.clone()).or_insert(Remembered {
            expires: claims.expires,
            requests: 0,
            logged_out: false,
        });
        session.requests += 1;
        session.requests
    })
}

/// Makes room: all that ended, or else the one that ends next.
fn forget(sessions: &mut HashMap<String, Remembered>, now_s: u64) {
    sessions.retain(|_, session| session.expires > now_s);
    if sessions.len() >= MOST_SESSIONS {
        let next = sessions.iter().min_by_key(|(_, session)| session.expires);
        if let Some(id) = next.map(|(id, _)| id.clone()) {
            sessions.remove(&id);
        }
    }
}

fn with_sessions<T>(f: impl FnOnce(&mut HashMap<String, Remembered>) -> T) -> T {
    let mut sessions = SESSIONS.lock().unwrap_or_else(PoisonError::into_inner);
    f(sessions.get_or_insert_default())
}
