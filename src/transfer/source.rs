//! Where packages may come from, and getting them here.
//!
//! `file:` below the operator's roots, used in place; `https:` (and `http:` to a loopback address, when allowed) from named
//! hosts, spooled to a file that goes with its last user. No redirect and no DNS answer leads to a private address,
//! unless the operator named that host: [`Fetcher`] owns its client, whose resolver hands out checked addresses only, so
//! what was checked is what is connected to. (Behind a proxy the proxy resolves, and has to guard its own network.)
//! No error shows a URL's query.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::LOCATION,
};
use tokio::{
    fs::OpenOptions,
    io::{AsyncWriteExt, BufWriter},
    time::timeout,
};

use super::{
    LocalPackage,
    pace::{Pace, limited, within},
    package_file::Spool,
    permanent,
    sas::{decoded, is_loopback},
    sink::file_path,
    transient,
};
use crate::{
    clock,
    domain::failure::{Cause, Failure, Kind},
};

/// Redirects followed for one source.
const MAX_REDIRECTS: usize = 5;

/// Where packages may come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceRules {
    /// `file:` only below these folders; `None`: whatever the user can read.
    pub roots: Option<Vec<PathBuf>>,
    /// `https:` only to these hosts: a name, `*.suffix`, or `*` for all. Only a host named in full may be private.
    pub hosts: Vec<String>,
    /// May `http:` to 127.0.0.0/8 and `::1` be used?
    pub allow_loopback_http: bool,
    /// Hosts of proxies in use, which may be private.
    pub proxies: Vec<String>,
}

impl SourceRules {
    /// Would this source be read at all? Looks at the text alone: scheme, host, roots.
    ///
    /// # Errors
    /// Permanent, kind `Source`.
    pub fn check(&self, source_url: &str) -> Result<(), Failure> {
        if is_file(source_url) {
            return self.local(source_url).map(|_| ());
        }
        self.remote(source_url, None).map(|_| ())
    }

    /// The file behind a `file:` URL, below a root; blocking.
    fn local(&self, source_url: &str) -> Result<PathBuf, Failure> {
        let path = file_path(source_url).map_err(|why| refuse(format!("the source cannot be read: {why}")))?;
        let Some(roots) = &self.roots else { return Ok(path) };
        let outside = || refuse(format!("the source {} is outside the sources' roots", path.display()));
        let real = match path.canonicalize() {
            Ok(real) => real,
            // Said without telling what exists outside the roots.
            Err(_) if !roots.iter().any(|root| path.starts_with(root)) => return Err(outside()),
            Err(error) => return Err(refuse(format!("cannot read the package {}: {error}", path.display()))),
        };
        let is_below = roots.iter().any(|root| root.canonicalize().is_ok_and(|root| real.starts_with(root)));
        if is_below { Ok(real) } else { Err(outside()) }
    }

    /// A URL that may be asked, as the first or as where `from` redirects to.
    fn remote(&self, url: &str, from: Option<&Url>) -> Result<Url, Failure> {
        let shown = without_query(url);
        let no = |why: &str| refuse(format!("the source {shown} is refused: {why}"));
        let parsed = match from {
            Some(from) => from.join(url),
            None => Url::parse(url),
        }
        .map_err(|_| no("it is no URL"))?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(no("it holds a user name; put the credential into the query or beside the source"));
        }
        let host = parsed.host_str().unwrap_or_default().to_ascii_lowercase();
        let is_named = self.names(&host);
        match parsed.scheme() {
            "https" => {}
            "http"
                if self.allow_loopback_http && is_loopback(&parsed) && (is_named || from.is_none_or(is_loopback)) =>
            {
                return Ok(parsed);
            }
            "http" => return Err(no("plain http is for loopback addresses only")),
            _ => return Err(no("only file: and https: are read")),
        }
        if !is_named && !self.allows(&host) {
            return Err(no("its host is not among the sources' hosts"));
        }
        if let Some(address) = literal(&host)
            && !is_named
            && !is_public(address)
        {
            return Err(no("its address is private; name the host to allow it"));
        }
        Ok(parsed)
    }

    /// Is the host named in full?
    fn names(&self, host: &str) -> bool {
        self.hosts.iter().any(|allowed| !allowed.contains('*') && same_host(allowed, host))
    }

    fn allows(&self, host: &str) -> bool {
        self.hosts.iter().any(|allowed| match allowed.strip_prefix('*') {
            Some("") => true,
            Some(suffix) => {
                let suffix = suffix.to_ascii_lowercase();
                suffix.starts_with('.') && host.len() > suffix.len() && host.ends_with(&suffix)
            }
            None => same_host(allowed, host),
        })
    }
}

/// How much and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes at most.
    pub max_bytes: u64,
    /// Until an answer's headers are there.
    pub answer: Duration,
    /// Without a byte.
    pub idle: Duration,
    /// Without a sign of life of a file.
    pub file: Duration,
    /// For everything.
    pub whole: Duration,
    /// Bytes per second on the average, beyond the time until an answer: what is slower is given up. Ends what drips.
    pub least_rate: u64,
}

impl Limits {
    /// What stands against going on after `elapsed`, when `size` bytes have come and the source has `promised` so many.
    ///
    /// Half of the time with less than a quarter of the bytes is no hiccup: what cannot fit is refused, not fetched ten times.
    fn verdict(&self, shown: &str, (size, promised): (u64, Option<u64>), elapsed: Duration) -> Result<(), Failure> {
        if promised == Some(size) {
            return Ok(());
        }
        let is_over = elapsed > self.whole;
        let cannot_fit = |promised: u64| is_over || (elapsed > self.whole / 2 && size < promised / 4);
        if let Some(promised) = promised.filter(|promised| cannot_fit(*promised)) {
            return Err(refuse(format!(
                "the source {shown} cannot come in within [transfer] source_timeout, {:?}: {size} of {promised} bytes did \
                 in {} s; raise it, or put the package nearer",
                self.whole,
                elapsed.as_secs()
            )));
        }
        if is_over {
            let text = format!(
                "the source {shown} has not come in within [transfer] source_timeout, {:?}: {size} bytes did",
                self.whole
            );
            return Err(transient(Kind::Timeout, text));
        }
        if elapsed > self.time_for(size) {
            let text = format!("the source {shown} sends less than {} bytes per second", self.least_rate);
            return Err(transient(Kind::Timeout, text));
        }
        Ok(())
    }

    /// Until so many bytes have to be there.
    fn time_for(&self, bytes: u64) -> Duration {
        self.answer
            .saturating_add(self.idle)
            .saturating_add(Duration::from_secs(bytes.div_ceil(self.least_rate.max(1))))
    }
}

impl Default for Limits {
    fn default() -> Self {
        let minute = Duration::from_mins(1);
        Self {
            max_bytes: super::MAX_PACKAGE,
            answer: minute,
            idle: minute,
            file: minute,
            whole: 30 * minute,
            least_rate: 100 << 10,
        }
    }
}

/// Gets packages from where the rules allow.
#[derive(Clone)]
pub struct Fetcher {
    rules: Arc<SourceRules>,
    http: reqwest::Client,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Takes a builder (proxy, company CA) and makes its client obey the rules: no redirects by itself, checked addresses.
    ///
    /// # Errors
    /// Permanent, kind `Internal`, when the client cannot be built.
    pub fn new(builder: reqwest::ClientBuilder, rules: SourceRules) -> Result<Self, Failure> {
        let rules = Arc::new(rules);
        let http = builder
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_gzip()
            .dns_resolver(Arc::new(GuardedResolver { rules: Arc::clone(&rules) }))
            .build()
            .map_err(|error| permanent(Kind::Internal, format!("no client for sources: {}", error.without_url())))?;
        Ok(Self { rules, http })
    }

    /// The package behind a source: a `file:` in place, anything else spooled into `spool_dir`.
    ///
    /// # Errors
    /// Permanent, kind `Source`: refused by the rules, missing, too large, empty, too slow to come in within `whole`.
    /// Transient: network, 5xx, our disk.
    ///
    /// # Cancel safety
    /// Dropping it removes the spool file.
    pub async fn fetch(&self, source_url: &str, spool_dir: &Path, limits: Limits) -> Result<LocalPackage, Failure> {
        if is_file(source_url) {
            let (rules, url) = (Arc::clone(&self.rules), source_url.to_owned());
            let path = file_path(source_url).map_err(|why| refuse(format!("the source cannot be read: {why}")))?;
            let measure = move |pace: &Pace| LocalPackage::measure_paced(&rules.local(&url)?, limits.max_bytes, pace);
            return limited(limits.file, &path, measure).await;
        }
        let url = self.rules.remote(source_url, None)?;
        let path = spool_dir.join(format!("source-{}{}", clock::uuid_v4(), extension(&url)));
        let answer = self.follow(url, limits).await?;
        let spool = Arc::new(Spool(path.clone()));
        spool_body(answer, &path, limits).await?;
        let spooled = path.clone();
        let measure = move |pace: &Pace| LocalPackage::measure_paced(&path, limits.max_bytes, pace);
        let package = limited(limits.file, &spooled, measure).await?;
        Ok(package.spooled(spool))
    }

    /// The first answer that is no redirect.
    async fn follow(&self, mut url: Url, limits: Limits) -> Result<reqwest::Response, Failure> {
        for _ in 0..=MAX_REDIRECTS {
            let shown = without_query(url.as_str());
            let answer = match timeout(limits.answer, self.http.get(url.clone()).send()).await {
                Err(_) => return Err(transient(Kind::Timeout, format!("the source {shown} does not answer"))),
                Ok(Err(error)) => return Err(unreachable_source(&shown, &error)),
                Ok(Ok(answer)) => answer,
            };
            let status = answer.status().as_u16();
            match status {
                200 => return Ok(answer),
                301 | 302 | 303 | 307 | 308 => {
                    let to = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
                    let to = to.ok_or_else(|| refuse(format!("the source {shown} redirects to nowhere")))?;
                    url = self.rules.remote(to, Some(&url))?;
                }
                408 | 429 | 500..=599 => {
                    let cause = Cause::new(Kind::Source, format!("the source {shown} answered {status}"));
                    return Err(Failure::Transient(cause.with_status(status)));
                }
                _ => {
                    let cause = Cause::new(Kind::Source, format!("the source {shown} answered {status}"));
                    return Err(Failure::Permanent(cause.with_status(status)));
                }
            }
        }
        Err(refuse(format!(
            "the source redirects more than {MAX_REDIRECTS} times, last to {}",
            without_query(url.as_str())
        )))
    }
}

async fn spool_body(mut answer: reqwest::Response, path: &Path, limits: Limits) -> Result<(), Failure> {
    let shown = without_query(answer.url().as_str());
    let too_large = || refuse(format!("the source {shown} has more than {} bytes", limits.max_bytes));
    let promised = answer.content_length();
    if promised.is_some_and(|length| length > limits.max_bytes) {
        return Err(too_large());
    }
    let file = within(limits.file, path, "write", private().open(path)).await?;
    let mut file = BufWriter::with_capacity(256 << 10, file);
    let mut size = 0_u64;
    let begun = clock::monotonic();
    loop {
        limits.verdict(&shown, (size, promised), begun.elapsed())?;
        let chunk = match timeout(limits.idle, answer.chunk()).await {
            Err(_) => return Err(transient(Kind::Timeout, format!("the source {shown} sends nothing any more"))),
            Ok(Err(error)) => return Err(unreachable_source(&shown, &error)),
            Ok(Ok(None)) => break,
            Ok(Ok(Some(chunk))) => chunk,
        };
        size = size.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if size > limits.max_bytes {
            return Err(too_large());
        }
        within(limits.file, path, "write", file.write_all(&chunk)).await?;
    }
    within(limits.file, path, "write", file.flush()).await?;
    if promised.is_some_and(|length| length != size) {
        return Err(transient(Kind::Disconnected, format!("the source {shown} broke off after {size} bytes")));
    }
    Ok(())
}

/// A new file that its owner alone can read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    options.mode(0o600);
    options
}

fn unreachable_source(shown: &str, error: &reqwest::Error) -> Failure {
    let mut reason: Option<&dyn std::error::Error> = Some(error);
    while let Some(inner) = reason {
        if let Some(guarded) = inner.downcast_ref::<PrivateAddress>() {
            return refuse(format!("the source {shown} is refused: {guarded}"));
        }
        reason = inner.source();
    }
    let (kind, what) =
        if error.is_connect() { (Kind::NotSent, "cannot be reached") } else { (Kind::Disconnected, "broke off") };
    transient(kind, format!("the source {shown} {what}"))
}

/// Every address of the name is private.
#[derive(Debug, thiserror::Error)]
#[error("its host {0} has a private address; name the host to allow it")]
struct PrivateAddress(String);

/// Resolves names to addresses that may be connected to.
struct GuardedResolver {
    rules: Arc<SourceRules>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_ascii_lowercase();
        let is_free = self.rules.names(&host) || self.rules.proxies.iter().any(|proxy| same_host(proxy, &host));
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let allowed = allowed(found, is_free).ok_or(PrivateAddress(host))?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// The addresses that may be connected to; `None` when there were only others.
fn allowed(found: Vec<SocketAddr>, is_free: bool) -> Option<Vec<SocketAddr>> {
    let had_some = !found.is_empty();
    let allowed: Vec<SocketAddr> = found.into_iter().filter(|address| is_free || is_public(address.ip())).collect();
    (!allowed.is_empty() || !had_some).then_some(allowed)
}

/// Can this address be reached by everybody? Private, loopback, link-local, shared and reserved ones cannot.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b));
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, third, _, _, _, seventh, eighth] = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    if let Some(mapped) = address.to_ipv4() {
        return is_public_v4(mapped); // ::ffff:a.b.c.d and ::a.b.c.d, `::1` among them
    }
    match first {
        0x0064 if second == 0xff9b => embedded(seventh, eighth), // NAT64
        0x2002 => embedded(second, third),                       // 6to4
        0x2001 => second >= 0x0200 && second != 0x0db8,          // Teredo, ORCHID, documentation
        _ => (0x2000..0x4000).contains(&first),
    }
}

fn same_host(one: &str, other: &str) -> bool {
    let bare =
        |host: &str| host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    bare(one) == bare(other)
}

fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn is_file(url: &str) -> bool {
    url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("file:"))
}

/// The URL up to its query, without a user name: what may be shown.
fn without_query(url: &str) -> String {
    let front = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = front.split_once("//") else { return front.to_owned() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    format!("{scheme}//{}{path}", authority.rsplit('@').next().unwrap_or_default())
}

/// `.cab`, `.hlkx` or `.hckx` when the path ends so: preflight looks at it.
fn extension(url: &Url) -> &'static str {
    let path = decoded(url.path()).to_ascii_lowercase();
    [".cab", ".hlkx", ".hckx"].into_iter().find(|known| path.ends_with(known.as_bytes())).unwrap_or("")
}

fn refuse(message: String) -> Failure {
    permanent(Kind::Source, message)
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
