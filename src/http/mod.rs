//! The one kind of HTTP client that the product uses, and what every caller of it needs.
//!
//! Promises: no redirect is followed, nothing is repeated behind the caller's back, plain `http` reaches loopback
//! addresses only, loopback never goes through a proxy, every wait has an end, and a proxy's password is never shown.
//! What an answer means is left to the caller; when anything can have been sent is said here.

mod headers;
mod proxy;

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use bytes::{Bytes, BytesMut};
use url::{Host, Url};

use self::proxy::Proxies;
pub use self::{
    headers::{date, http_date, retry_after},
    proxy::Route,
};
pub use reqwest::{Client, ClientBuilder};

/// How the product names itself to servers.
pub const USER_AGENT: &str = concat!("longshore/", env!("CARGO_PKG_VERSION"));

/// How connections are made. [`Debug`] hides the credentials of the proxy.
#[derive(Clone)]
pub struct Options {
    /// The proxy for everything but loopback, as a URL; it goes before `HTTPS_PROXY` and `ALL_PROXY`.
    pub proxy: Option<String>,
    /// Certificates (PEM) that are trusted besides those of the platform.
    pub ca_file: Option<PathBuf>,
    /// Longest wait for a connection, name resolution and TLS included.
    pub connect_timeout: Duration,
    /// Longest wait for a whole answer. A [`Stream`] has none: its bodies may be of any length.
    pub response_timeout: Duration,
    /// How long an idle connection is kept. Shorter than what servers keep, so that a request seldom meets a closed one.
    pub idle_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            proxy: None,
            ca_file: None,
            connect_timeout: Duration::from_secs(15),
            response_timeout: Duration::from_mins(5),
            idle_timeout: Duration::from_secs(50),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("proxy", &self.proxy.as_deref().map(proxy::without_credentials))
            .field("ca_file", &self.ca_file)
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .finish()
    }
}

/// Why no client can be built, or why an address may not be called.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The proxy's address cannot be used.
    #[error("proxy address from {origin} is not valid: {problem}")]
    Proxy {
        /// The setting or variable.
        origin: &'static str,
        /// What is wrong with it, without the address.
        problem: String,
    },
    /// The file of additional certificates cannot be read.
    #[error("certificate file {path} cannot be read")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file of additional certificates holds none.
    #[error("certificate file {path} holds no usable PEM certificate: {problem}")]
    CaContent {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// TLS cannot be set up, for one when the platform has no trusted certificates.
    #[error("no HTTPS client can be set up; is the platform's certificate package installed?")]
    Build(#[source] reqwest::Error),
    /// The address is neither `https` nor plain `http` to a loopback address.
    #[error("{url} may not be called: {rule}")]
    Endpoint {
        /// The address without credentials, query and fragment.
        url: String,
        /// The rule it breaks.
        rule: &'static str,
    },
}

/// Builds the client, honouring `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` (in either case of letters).
///
/// # Errors
/// [`Error`] when the proxy's address, the certificate file or the platform's trust store cannot be used.
pub fn client(options: &Options) -> Result<reqwest::Client, Error> {
    client_in(options, &environment)
}

/// The same client, not yet built, for an adapter that adds rules of its own: checked addresses, for one.
///
/// # Errors
/// As [`client`].
pub fn builder(options: &Options) -> Result<reqwest::ClientBuilder, Error> {
    builder_in(options, &environment)
}

/// What ends a request whose body may take as long as it needs, in place of a limit on the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Long bodies go out. Whoever sends watches the bytes that go; where the system can tell (Linux), a connection of
    /// which nothing is acknowledged for this long breaks.
    Sent {
        /// Time without a byte.
        stall: Duration,
    },
    /// Long bodies come in: an answer of which nothing comes for this long breaks off, its headers included.
    Received {
        /// Time without a byte.
        idle: Duration,
    },
}

/// The same client for long bodies, not yet built: no limit on a whole answer, but on how long nothing moves.
///
/// # Errors
/// As [`client`].
pub fn stream_builder(options: &Options, stream: Stream) -> Result<reqwest::ClientBuilder, Error> {
    stream_builder_in(options, stream, &environment)
}

/// The client for long bodies.
///
/// # Errors
/// As [`client`].
pub fn stream_client(options: &Options, stream: Stream) -> Result<reqwest::Client, Error> {
    stream_builder(options, stream)?.build().map_err(Error::Build)
}

/// The host of the proxy in force, if there is one: it may have a private address.
///
/// # Errors
/// [`Error::Proxy`] when its address cannot be used.
pub fn proxy_host(options: &Options) -> Result<Option<String>, Error> {
    Ok(Proxies::resolve(options, &environment)?.host())
}

/// Which way a request to this address would take, for `doctor`. Credentials of the proxy are hidden.
///
/// # Errors
/// [`Error::Proxy`] when the proxy's address cannot be used.
pub fn route(options: &Options, url: &Url) -> Result<Route, Error> {
    Ok(Proxies::resolve(options, &environment)?.route(url))
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn client_in(options: &Options, environment: &dyn Fn(&str) -> Option<String>) -> Result<reqwest::Client, Error> {
    builder_in(options, environment)?.build().map_err(Error::Build)
}

fn builder_in(
    options: &Options,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<reqwest::ClientBuilder, Error> {
    Ok(plain_builder(options, environment)?.timeout(options.response_timeout))
}

fn stream_builder_in(
    options: &Options,
    stream: Stream,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<reqwest::ClientBuilder, Error> {
    let builder = plain_builder(options, environment)?;
    Ok(match stream {
        #[cfg(target_os = "linux")]
        Stream::Sent { stall } => builder.tcp_user_timeout(stall),
        #[cfg(not(target_os = "linux"))]
        Stream::Sent { stall: _ } => builder,
        Stream::Received { idle } => builder.read_timeout(idle),
    })
}

/// Everything but how long an answer may take.
fn plain_builder(
    options: &Options,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<reqwest::ClientBuilder, Error> {
    let proxies = Proxies::resolve(options, environment)?;
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // One retry loop per call path, in the engine: a create must never be repeated down here.
        .retry(reqwest::retry::never())
        .no_proxy()
        .proxy(reqwest::Proxy::custom(move |url| proxies.of(url).cloned()))
        .connect_timeout(options.connect_timeout)
        .pool_idle_timeout(options.idle_timeout)
        .tcp_keepalive(Duration::from_secs(30));
    if let Some(path) = &options.ca_file {
        builder = builder.tls_certs_merge(company_certificates(path)?);
    }
    Ok(builder)
}

fn company_certificates(path: &PathBuf) -> Result<Vec<reqwest::Certificate>, Error> {
    let pem = std::fs::read(path).map_err(|source| Error::CaFile { path: path.clone(), source })?;
    let content = |problem: String| Error::CaContent { path: path.clone(), problem };
    let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| content(error.to_string()))?;
    if certificates.is_empty() { Err(content("there is none in it".to_owned())) } else { Ok(certificates) }
}

/// May this address be called? `https` anywhere, plain `http` to a loopback address (127.0.0.0/8, `::1`) only.
///
/// # Errors
/// [`Error::Endpoint`] names the rule that the address breaks.
pub fn check_endpoint(url: &Url) -> Result<(), Error> {
    let refuse = |rule| Err(Error::Endpoint { url: without_secrets(url), rule });
    if url.host().is_none() {
        return refuse("it names no host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("an address carries no user name and no password");
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback_address(url) => Ok(()),
        "http" => refuse("plain http is for loopback addresses (127.0.0.0/8, ::1) only; use https"),
        _ => refuse("only https is spoken, and http to loopback addresses"),
    }
}

/// The address without credentials, query and fragment, fit for a log.
#[must_use]
pub fn without_secrets(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    proxy::without_credentials(url.as_str())
}

fn is_loopback_address(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).to_canonical().is_loopback(),
        Some(Host::Domain(_)) | None => false,
    }
}

/// Can anything of a request that failed have reached the server?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Nothing: name, connection, proxy or TLS failed, or the request could not even be built.
    Nothing,
    /// It may have arrived, whole or in part.
    Perhaps,
}

/// Says whether anything of the failed request can have reached the server. In doubt: perhaps.
#[must_use]
pub fn classify_transport(error: &reqwest::Error) -> Sent {
    if error.is_builder() || error.is_connect() { Sent::Nothing } else { Sent::Perhaps }
}

/// What went wrong on the way, in a few words, without the address.
#[must_use]
pub fn describe(error: &reqwest::Error) -> String {
    let what = if error.is_builder() {
        "the request cannot be built"
    } else if error.is_connect() {
        "no connection"
    } else if error.is_timeout() {
        "no whole answer in time"
    } else if error.is_decode() || error.is_body() {
        "the answer broke off"
    } else {
        "the connection broke"
    };
    match std::iter::successors(std::error::Error::source(error), |inner| inner.source()).last() {
        // The innermost cause speaks of sockets, names and certificates, never of the address's query.
        Some(innermost) => format!("{what} ({})", without_number(&innermost.to_string())),
        None => what.to_owned(),
    }
}

/// What the system says of an error, without its number: the words are for people.
fn without_number(words: &str) -> &str {
    words.split_once(" (os error ").map_or(words, |(words, _)| words)
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is larger than allowed.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// It broke off, or did not come in time.
    #[error("{}", describe(.0))]
    Transport(reqwest::Error),
}

/// Reads the whole body, at most `cap` bytes after decompression.
///
/// # Errors
/// [`BodyError::TooLarge`] as soon as the cap is passed, [`BodyError::Transport`] when the body breaks off.
pub async fn read_capped(mut response: reqwest::Response, cap: usize) -> Result<Bytes, BodyError> {
    if response.content_length().is_some_and(|length| length > u64::try_from(cap).unwrap_or(u64::MAX)) {
        return Err(BodyError::TooLarge(cap));
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Transport)? {
        if body.len().saturating_add(chunk.len()) > cap {
            return Err(BodyError::TooLarge(cap));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Reads what there is of a body, at most its first `cap` bytes: for error bodies, whose loss must not hide the error.
pub async fn read_start(mut response: reqwest::Response, cap: usize) -> Bytes {
    let mut body = BytesMut::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = cap.saturating_sub(body.len());
        body.extend_from_slice(chunk.get(..room.min(chunk.len())).unwrap_or_default());
        if body.len() >= cap {
            break;
        }
    }
    body.freeze()
}

#[cfg(test)]
mod tests;
