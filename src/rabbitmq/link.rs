//! How a connection to the broker is made, and what is told of its address.

use lapin::{
    Connection, ConnectionProperties,
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPUri, SASLMechanism},
};
use secrecy::{ExposeSecret as _, SecretString};

use super::{Options, session::told};
use crate::clock;

impl Options {
    /// The broker's user of these connections; none when the address leaves it to the certificate and nobody tells.
    #[must_use]
    pub fn user(&self) -> Option<String> {
        self.user.clone().or_else(|| named(self.urls.first()?))
    }

    /// The virtual host of the first address.
    #[must_use]
    pub fn vhost(&self) -> Option<String> {
        let uri: AMQPUri = self.urls.first()?.expose_secret().parse().ok()?;
        Some(uri.vhost)
    }

    /// Is it known who we are at every one of the brokers? A message names its user, and the broker refuses another's.
    ///
    /// # Errors
    /// Says in words which setting is wrong, without any part of an address.
    pub fn check_user(&self) -> Result<(), String> {
        let mut users = self.urls.iter().map(named);
        let first = users.next().flatten();
        if users.any(|user| user != first) {
            return Err("home.broker: its addresses name different users, and messages carry one user's name: \
                        name the same user in each"
                .to_owned());
        }
        match (&self.user, first) {
            (None, None) if !self.urls.is_empty() => Err(
                "rabbitmq.user: missing: home.broker signs in by certificate (auth_mechanism=external), so the name \
                     that the broker takes from it must be told"
                    .to_owned(),
            ),
            (Some(told), Some(named)) if *told != named => {
                Err("rabbitmq.user: is another user than home.broker names: leave it out".to_owned())
            }
            (None | Some(_), None | Some(_)) => Ok(()),
        }
    }
}

/// The user that an address signs in with: without one the client signs in as `guest`, as every client does.
fn named(url: &SecretString) -> Option<String> {
    let uri: AMQPUri = url.expose_secret().parse().ok()?;
    match uri.query.auth_mechanism {
        Some(SASLMechanism::External | SASLMechanism::Anonymous) => None,
        Some(SASLMechanism::Plain | SASLMechanism::AMQPlain | SASLMechanism::RabbitCrDemo) | None => {
            Some(uri.authority.userinfo.username)
        }
    }
}

/// Hosts and ports of the brokers, for people.
pub(super) fn address(options: &Options) -> String {
    let places = options.urls.iter().filter_map(|url| url.expose_secret().parse::<AMQPUri>().ok());
    let places: Vec<String> =
        places.map(|uri| format!("{}:{}{}", uri.authority.host, uri.authority.port, vhost(&uri.vhost))).collect();
    places.join(", ")
}

fn vhost(name: &str) -> String {
    if name == "/" { String::new() } else { format!("/{name}") }
}

/// Connects to the first of the brokers that answers; the order changes from time to time, so that they share the load.
pub(super) async fn connect(options: &Options, purpose: &str) -> Result<Connection, String> {
    let mut why = "no broker is named".to_owned();
    let first = clock::below(options.urls.len());
    let (before, after) = options.urls.split_at(first.min(options.urls.len()));
    for url in after.iter().chain(before) {
        let uri: AMQPUri = match url.expose_secret().parse() {
            Ok(uri) => uri,
            Err(_) => return Err("the address of the broker is no amqp:// or amqps:// URL".to_owned()),
        };
        let mut uri = uri;
        uri.query.heartbeat.get_or_insert(u16::try_from(options.heartbeat.as_secs()).unwrap_or(u16::MAX));
        let name = format!("longshore {} {purpose}", std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let identity = options.identity.as_ref().map(|(certificate, key)| OwnedIdentity::PKCS8 {
            pem: certificate.clone().into_bytes(),
            key: key.expose_secret().as_bytes().to_vec(),
        });
        let tls = OwnedTLSConfig { identity, cert_chain: options.ca.clone() };
        let runtime = lapin::runtime::default_runtime().map_err(|error| error.to_string())?;
        let connected = Connection::connect_uri_with_config(uri, properties, tls, runtime);
        match tokio::time::timeout(options.connect_timeout, connected).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => why = told(&error),
            Err(_) => why = format!("no answer within {} s", options.connect_timeout.as_secs()),
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(urls: &[&str], user: Option<&str>) -> Options {
        let urls = urls.iter().map(|url| SecretString::from(*url)).collect();
        Options { urls, user: user.map(str::to_owned), ..Options::default() }
    }

    #[test]
    fn our_own_user_is_known_or_the_configuration_is_refused() {
        const EXTERNAL: &str = "amqps://a:5671/%2f?auth_mechanism=external";
        for (urls, user, known) in [
            (&["amqp://ann:x@a", "amqp://ann:y@b"][..], None, Ok(Some("ann"))),
            (&["amqp://a"], None, Ok(Some("guest"))),
            (&["amqp://b%2fc:x@a"], None, Ok(Some("b/c"))),
            (&["amqp://ann:x@a"], Some("ann"), Ok(Some("ann"))),
            (&[EXTERNAL], Some("worker-1"), Ok(Some("worker-1"))),
            (&[EXTERNAL], None, Err("rabbitmq.user")),
            (&["amqp://ann:x@a"], Some("bob"), Err("rabbitmq.user")),
            (&["amqp://ann:x@a", "amqp://bob:x@b"], None, Err("home.broker")),
            (&["amqp://ann:x@a", EXTERNAL], None, Err("home.broker")),
        ] {
            let options = options(urls, user);
            match (options.check_user(), known) {
                (Ok(()), Ok(user)) => assert_eq!(options.user().as_deref(), user, "{urls:?}"),
                (Err(why), Err(setting)) => {
                    assert!(why.starts_with(setting) && !why.contains("ann"), "{why}");
                }
                (found, wanted) => panic!("{urls:?} {user:?}: {found:?}, {wanted:?}"),
            }
        }
    }
}
