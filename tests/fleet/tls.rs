//! A broker behind TLS: an authority of one's own, and a sign-in by certificate.

use std::{collections::BTreeMap, path::Path, time::Duration};

use longshore::{
    domain::{ids::JobId, job::Job, step::Kind},
    rabbitmq::{self, Lane, Rabbit},
};
use tokio_util::sync::CancellationToken;

use crate::{
    hands::{Hands, PATIENCE, folder, job, receive},
    servers::{self, RabbitMq},
};

/// An authority, and what it signs.
struct Authority {
    pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: rcgen::Issuer::new(params, key) }
    }

    /// A certificate in this name for these hosts, and its key, both in PEM.
    fn sign(&self, name: &str, hosts: &[&str]) -> (String, String) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_signs_in_by_certificate_and_its_messages_carry_the_name_that_the_broker_takes_from_it() {
    if !servers::are_installed() {
        return;
    }
    let folder = folder();
    let authority = Authority::new();
    let (certificate, key) = authority.sign("localhost", &["localhost", "127.0.0.1"]);
    let files = [("ca.pem", &authority.pem), ("server.pem", &certificate), ("server.key", &key)]
        .map(|(name, text)| write(&folder, name, text));
    crate::run_folder::by_design(&folder.join("server.key")).unwrap();
    let port = servers::free_port();
    let settings = |number: usize| {
        let [ca, certificate, key] = &files;
        let listens = if number == 0 { format!("listeners.ssl.1 = 127.0.0.1:{port}\n") } else { String::new() };
        format!(
            "{listens}ssl_options.cacertfile = {ca}\nssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\n\
             ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = false\n\
             auth_mechanisms.1 = EXTERNAL\nauth_mechanisms.2 = PLAIN\nssl_cert_login_from = common_name\n"
        )
    };
    let broker = RabbitMq::with(&folder.join("rabbitmq"), "rabbitmq_auth_mechanism_ssl", &settings);
    broker.user("worker-1", [".*", ".*", ".*"]);
    let hands = Hands::with(broker, &folder).await;
    let (certificate, key) = authority.sign("worker-1", &[]);
    let url = format!("amqps://localhost:{port}/%2f?auth_mechanism=external");
    let options = rabbitmq::Options {
        urls: vec![url.into()],
        ca: Some(authority.pem.clone()),
        identity: Some((certificate, key.into())),
        user: Some("worker-1".to_owned()),
        ..hands.options([(Kind::StatusPoll, 1)])
    };
    let (home, _stop) = hands.home(options.clone()).await;
    let handed_in = Job::decode(job("a").as_bytes(), || None::<JobId>).unwrap();
    home.broker().submit(&handed_in, None, job("a").into_bytes()).await.unwrap();
    let received = receive(&home, Kind::StatusPoll).await;
    assert_eq!((received.body, received.producer.as_deref()), (job("a"), Some("worker-1")));

    // Another name than the certificate's: the broker refuses the message.
    let other = rabbitmq::Options { user: Some("guest".to_owned()), lanes: BTreeMap::new(), ..options.clone() };
    let (other, _stop) = hands.home(other).await;
    other.broker().submit(&handed_in, None, job("a").into_bytes()).await.unwrap_err();
    hands.holds(&hands.names.lane(Kind::StatusPoll, Lane::Intake), 0).await;

    // An authority that nobody named is not believed, and a stranger's certificate opens nothing.
    let stranger = Authority::new();
    let (certificate, key) = stranger.sign("worker-1", &[]);
    for (refused, why) in [
        (rabbitmq::Options { ca: None, ..options.clone() }, "certificate"),
        (rabbitmq::Options { ca: Some(stranger.pem.clone()), ..options.clone() }, "certificate"),
        (rabbitmq::Options { identity: Some((certificate, key.into())), ..options.clone() }, ""),
        (rabbitmq::Options { identity: None, ..options.clone() }, ""),
    ] {
        let rabbit = Rabbit::new(rabbitmq::Options { lanes: BTreeMap::new(), ..refused });
        let told = tokio::time::timeout(PATIENCE, rabbit.connection()).await.unwrap().map(drop).unwrap_err();
        assert!(told.why.contains(why), "{told}");
    }

    // By name and password over TLS, without a certificate of one's own.
    let url = format!("amqps://guest:guest@localhost:{port}/%2f");
    let plain = rabbitmq::Options { urls: vec![url.into()], identity: None, user: None, ..options };
    let rabbit = Rabbit::new(plain);
    let stop = CancellationToken::new();
    let supervising = async {
        rabbit.ready_within(Duration::from_secs(60)).await.unwrap();
        assert_eq!(rabbit.user().as_deref(), Some("guest"));
        stop.cancel();
    };
    futures_util::future::join(supervising, rabbit.supervise(&stop)).await;
}
