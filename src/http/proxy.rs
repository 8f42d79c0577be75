//! Which proxy a request goes through: the setting, else the environment; never for loopback.

use std::{fmt, net::IpAddr};

use url::{Host, Url};

use super::{Error, Options};

/// The proxy in force and the hosts that go without.
#[derive(Clone)]
pub(super) struct Proxies {
    proxy: Option<(Url, &'static str)>,
    exceptions: Vec<Exception>,
}

/// The way to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Straight to it.
    Direct,
    /// Through this proxy.
    Proxy {
        /// The proxy's address, user name and password hidden.
        address: String,
        /// The setting or variable that names it.
        origin: &'static str,
    },
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Proxy { address, origin } => write!(f, "proxy {address} (from {origin})"),
        }
    }
}

const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

impl Proxies {
    pub(super) fn resolve(options: &Options, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let from_settings = options.proxy.clone().map(|text| (text, "[http] proxy"));
        let named = |name: &'static str| environment(name).filter(|text| !text.trim().is_empty()).map(|t| (t, name));
        let proxy = from_settings
            .or_else(|| VARIABLES.iter().find_map(|name| named(name)))
            .map(|(text, origin)| parse(&text, origin).map(|url| (url, origin)))
            .transpose()?;
        let exceptions = named("NO_PROXY").or_else(|| named("no_proxy")).map(|(list, _)| list).unwrap_or_default();
        Ok(Self { proxy, exceptions: exceptions.split(',').filter_map(Exception::parse).collect() })
    }

    /// The proxy for this address.
    pub(super) fn of(&self, url: &Url) -> Option<&Url> {
        let (proxy, _) = self.proxy.as_ref()?;
        (!self.is_exempt(url)).then_some(proxy)
    }

    /// Its host.
    pub(super) fn host(&self) -> Option<String> {
        self.proxy.as_ref().and_then(|(url, _)| url.host_str()).map(str::to_owned)
    }

    pub(super) fn route(&self, url: &Url) -> Route {
        match &self.proxy {
            Some((proxy, origin)) if !self.is_exempt(url) => {
                Route::Proxy { address: without_credentials(proxy.as_str()), origin }
            }
            Some(_) | None => Route::Direct,
        }
    }

    fn is_exempt(&self, url: &Url) -> bool {
        let address = match url.host() {
            None => return true,
            Some(Host::Domain(name)) => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                let is_local = name == "localhost" || name.ends_with(".localhost");
                return is_local || self.exceptions.iter().any(|exception| exception.has_name(&name, url));
            }
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address).to_canonical(),
        };
        address.is_loopback() || self.exceptions.iter().any(|exception| exception.has_address(address, url))
    }
}

fn parse(text: &str, origin: &'static str) -> Result<Url, Error> {
    let text = text.trim();
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let refuse = |problem: &str| Error::Proxy { origin, problem: problem.to_owned() };
    let url = Url::parse(&whole).map_err(|error| refuse(&error.to_string()))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        "http" | "https" => Err(refuse("it names no host")),
        _ => Err(refuse("only http:// and https:// proxies are supported")),
    }
}

/// An address without what stands before `@`. Works on text that is no URL, too.
pub(super) fn without_credentials(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let at = if host.len() == authority.len() { "" } else { "…@" };
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{at}{host}{tail}")
}

/// One entry of `NO_PROXY`: `*`, a name with everything below it, an address, a network; each perhaps with a port.
#[derive(Clone)]
enum Exception {
    All,
    Name(String, Option<u16>),
    Network(IpAddr, u8),
    Address(IpAddr, Option<u16>),
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim();
        if entry.is_empty() {
            return None;
        }
        if entry == "*" {
            return Some(Self::All);
        }
        if let Some((address, prefix)) = entry.split_once('/') {
            return Some(Self::Network(address.parse().ok()?, prefix.parse().ok()?));
        }
        if let Ok(address) = entry.trim_start_matches('[').trim_end_matches(']').parse() {
            return Some(Self::Address(address, None));
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (entry, None),
        };
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Some(Self::Address(address, port));
        }
        let name = host.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase();
        (!name.is_empty()).then_some(Self::Name(name, port))
    }

    fn has_name(&self, name: &str, url: &Url) -> bool {
        match self {
            Self::All => true,
            Self::Name(suffix, port) => {
                let fits = name == suffix || name.strip_suffix(suffix.as_str()).is_some_and(|head| head.ends_with('.'));
                fits && has_port(*port, url)
            }
            Self::Network(..) | Self::Address(..) => false,
        }
    }

    fn has_address(&self, address: IpAddr, url: &Url) -> bool {
        match self {
            Self::All => true,
            Self::Name(..) => false,
            Self::Address(own, port) => own.to_canonical() == address && has_port(*port, url),
            Self::Network(network, prefix) => is_within(address, *network, *prefix),
        }
    }
}

fn has_port(port: Option<u16>, url: &Url) -> bool {
    port.is_none() || port == url.port_or_known_default()
}

fn is_within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let ((address, length), (network, network_length)) = (bits(address), bits(network));
    let prefix = u32::from(prefix.min(network_length));
    let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
    length == network_length && address & mask == network & mask
}
