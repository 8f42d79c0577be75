//! TLS with an authority of one's own, both ways.

use std::{fs, path::Path};

use longshore::{
    engine::ports::Memory as _,
    redis::{Address, Store, Tls},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::{
    harness::{folder, key, options},
    servers::{self, Redis},
    walk::Walk,
};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate of this authority, and its key, both in PEM.
fn certificate(authority: &Authority, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// A server that speaks TLS on a second port, and asks for a certificate.
fn server(folder: &Path, authority: &Authority) -> (Redis, u16) {
    let port = servers::free_port();
    fs::create_dir_all(folder).unwrap();
    let (certificate, key) = certificate(authority, "127.0.0.1");
    let key_file = folder.join("server.key");
    crate::run_folder::by_design(&key_file).unwrap();
    fs::write(&key_file, key).unwrap();
    fs::write(folder.join("server.crt"), certificate).unwrap();
    fs::write(folder.join("ca.crt"), authority.pem()).unwrap();
    let port_text = port.to_string();
    let settings = [
        ("tls-port", port_text.as_str()),
        ("tls-cert-file", "server.crt"),
        ("tls-key-file", "server.key"),
        ("tls-ca-cert-file", "ca.crt"),
        ("tls-auth-clients", "yes"),
    ];
    (Redis::with(folder, &settings), port)
}

#[tokio::test]
async fn both_ends_prove_themselves_to_an_authority_of_ones_own() {
    if !servers::is_redis_installed() {
        return;
    }
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let (_server, port) = server(&folder(), &ours);
    let store = |scheme: &str, ca: &Authority, identity: Option<(String, String)>| {
        let tls = Tls {
            ca: Some(ca.pem().into_bytes()),
            identity: identity.map(|(certificate, key)| (certificate.into_bytes(), key.into())),
        };
        let tls = if scheme == "rediss" { tls } else { Tls::default() };
        let url = format!("{scheme}://127.0.0.1:{port}").into();
        Store::new(&Address { url, sentinel: None, tls }, options()).unwrap()
    };
    let good = store("rediss", &ours, Some(certificate(&ours, "worker")));
    good.born_clean(true).await.unwrap();
    Walk::default().all(&good).await.unwrap();

    let strangers = [
        ("a server of another authority", store("rediss", &theirs, Some(certificate(&ours, "worker")))),
        ("a client without a certificate", store("rediss", &ours, None)),
        ("a client of another authority", store("rediss", &ours, Some(certificate(&theirs, "worker")))),
        ("a client without TLS", store("redis", &ours, None)),
    ];
    for (what, stranger) in strangers {
        let Err(down) = stranger.load(&key("walk")).await else { panic!("{what} got in") };
        assert_eq!(down.what, "memory", "{what}");
    }
}
