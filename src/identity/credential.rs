//! What proves that we are the application: a secret, or an assertion signed with a certificate's key.
//!
//! Source: contract/identity.md, sections 4.1, 4.2 and 9.

use std::fmt;

use aws_lc_rs::{digest, rsa::KeyPair, signature::KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use jsonwebtoken::{EncodingKey, Header};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::settings::Settings;
use crate::domain::ids::Sha256;

/// The type of every assertion (section 4.2).
pub const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What proves that we are the application. Federation, managed identity and user grants will stand here, too.
#[derive(Clone)]
pub enum Credential {
    /// A client secret: its value, not its id.
    Secret(SecretString),
    /// A certificate registered with the application, and its key.
    Certificate(Box<Certificate>),
}

impl Credential {
    /// The kind, a part of the cache key.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Secret(_) => "secret",
            Self::Certificate(_) => "certificate",
        }
    }

    /// Tells two credentials of one kind apart without showing either: a new secret ends the memory of a refusal.
    #[must_use]
    pub fn fingerprint(&self) -> Sha256 {
        match self {
            Self::Secret(secret) => Sha256::of(secret.expose_secret().as_bytes()),
            Self::Certificate(certificate) => {
                Sha256::of(format!("{:?} {}", certificate.algorithm, certificate.thumbprint_sha256).as_bytes())
            }
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(_) => f.write_str("Secret(…)"),
            Self::Certificate(certificate) => certificate.fmt(f),
        }
    }
}

/// How assertions are signed and the certificate is named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Algorithm {
    /// RSA-PSS with SHA-256 and `x5t#S256`: what Microsoft recommends today.
    #[default]
    Ps256,
    /// RSA PKCS#1 v1.5 with SHA-256 and `x5t`: for keys in hardware without PSS.
    Rs256,
}

/// A certificate with its RSA key.
#[derive(Clone)]
pub struct Certificate {
    thumbprint_sha256: String,
    thumbprint_sha1: String,
    key: EncodingKey,
    algorithm: Algorithm,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({:?}, x5t#S256 {})", self.algorithm, self.thumbprint_sha256)
    }
}

/// Why a certificate cannot be used. Never shows the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// There is no certificate in the PEM text.
    #[error("there is no PEM certificate (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// There is no private key in the PEM text.
    #[error("there is no unencrypted PEM private key (-----BEGIN PRIVATE KEY----- or RSA PRIVATE KEY)")]
    NoKey,
    /// The key is no RSA key of 2048 bits or more.
    #[error("the private key is no RSA key of at least 2048 bits")]
    NotRsa,
    /// Certificate and key do not belong together.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// The assertion cannot be signed.
    #[error("the assertion cannot be signed")]
    Signing,
}

impl Certificate {
    /// Reads certificate (the first one counts) and key, and checks that they belong together.
    ///
    /// # Errors
    /// [`CredentialError`] says what is missing or wrong.
    pub fn from_pem(
        certificate_pem: &str,
        key_pem: &SecretString,
        algorithm: Algorithm,
    ) -> Result<Self, CredentialError> {
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|_| CredentialError::NoCertificate)?;
        let key_pem = key_pem.expose_secret().as_bytes();
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| CredentialError::NoKey)?;
        let pair = if let PrivateKeyDer::Pkcs1(der) = &key {
            KeyPair::from_der(der.secret_pkcs1_der())
        } else if let PrivateKeyDer::Pkcs8(der) = &key {
            KeyPair::from_pkcs8(der.secret_pkcs8_der())
        } else {
            return Err(CredentialError::NotRsa);
        };
        let pair = pair.map_err(|_| CredentialError::NotRsa)?;
        // The certificate holds the public key in the same encoding.
        let public = pair.public_key().as_ref();
        if !certificate.windows(public.len()).any(|window| window == public) {
            return Err(CredentialError::Mismatch);
        }
        let thumbprint = |kind| URL_SAFE_NO_PAD.encode(digest::digest(kind, &certificate));
        Ok(Self {
            thumbprint_sha256: thumbprint(&digest::SHA256),
            // The contract's older form names certificates by SHA-1; nothing is secured by it.
            thumbprint_sha1: thumbprint(&digest::SHA1_FOR_LEGACY_USE_ONLY),
            key: EncodingKey::from_rsa_pem(key_pem).map_err(|_| CredentialError::NotRsa)?,
            algorithm,
        })
    }

    /// A fresh assertion for one request to `audience`, which is exactly the URL posted to. `now` is Entra's clock as
    /// far as known; `id` is new for each attempt.
    ///
    /// # Errors
    /// [`CredentialError::Signing`] when the key fails.
    pub fn assertion(
        &self,
        client_id: &str,
        audience: &Url,
        now: Timestamp,
        id: Uuid,
        settings: &Settings,
    ) -> Result<SecretString, CredentialError> {
        let header = match self.algorithm {
            Algorithm::Ps256 => {
                Header { x5t_s256: Some(self.thumbprint_sha256.clone()), ..Header::new(jsonwebtoken::Algorithm::PS256) }
            }
            Algorithm::Rs256 => {
                Header { x5t: Some(self.thumbprint_sha1.clone()), ..Header::new(jsonwebtoken::Algorithm::RS256) }
            }
        };
        let seconds = |moved: Result<Timestamp, jiff::Error>| moved.unwrap_or(now).as_second();
        let claims = Claims {
            aud: audience.as_str(),
            iss: client_id,
            sub: client_id,
            jti: id,
            nbf: seconds(now.saturating_sub(settings.assertion_backdate)),
            iat: now.as_second(),
            exp: seconds(now.saturating_add(settings.assertion_life)),
        };
        jsonwebtoken::encode(&header, &claims, &self.key).map(SecretString::from).map_err(|_| CredentialError::Signing)
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    iss: &'a str,
    sub: &'a str,
    jti: Uuid,
    nbf: i64,
    iat: i64,
    exp: i64,
}

/// A self-signed certificate and its key, made with the test's own RSA key.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// PEM of certificate and key.
    pub(crate) fn pair() -> (String, SecretString) {
        static PAIR: std::sync::OnceLock<(String, String)> = std::sync::OnceLock::new();
        let (certificate, key) = PAIR.get_or_init(|| {
            let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
            let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
            (certificate.pem(), key.serialize_pem())
        });
        (certificate.clone(), SecretString::from(key.clone()))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
    use serde_json::Value;

    use super::*;
    use crate::partner_center::contract;

    const CLIENT: &str = "c0a9e6d4-58b7-4f02-8e3d-91a64b7f2c58";

    fn parts(jwt: &SecretString) -> (Value, Value, Vec<u8>, Vec<u8>) {
        let text = jwt.expose_secret();
        let [header, claims, signature] = text.split('.').collect::<Vec<_>>()[..] else { panic!("{text}") };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        let json = |part| serde_json::from_slice(&decode(part)).unwrap();
        (json(header), json(claims), decode(signature), format!("{header}.{claims}").into_bytes())
    }

    fn assertion(algorithm: Algorithm) -> SecretString {
        let (certificate, key) = testing::pair();
        let url = "https://login.example/t/oauth2/token".parse().unwrap();
        let now = "2026-11-01T10:00:00Z".parse().unwrap();
        let certificate = Certificate::from_pem(&certificate, &key, algorithm).unwrap();
        certificate.assertion(CLIENT, &url, now, Uuid::from_u128(7), &Settings::default()).unwrap()
    }

    #[test]
    fn assertions_have_the_contracts_header_and_claims_and_verify() {
        let (certificate, key) = testing::pair();
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let PrivateKeyDer::Pkcs8(key) = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes()).unwrap() else {
            panic!("rcgen writes PKCS#8")
        };
        let pair = KeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
        let verify = |algorithm: &'static dyn VerificationAlgorithm, signed: &[u8], signature: &[u8]| {
            UnparsedPublicKey::new(algorithm, pair.public_key().as_ref()).verify(signed, signature).is_ok()
        };
        for algorithm in [Algorithm::Ps256, Algorithm::Rs256] {
            let (header, claims, signature, signed) = parts(&assertion(algorithm));
            assert_eq!(contract::identity_objections("AssertionHeader", &header), Vec::<String>::new(), "{header}");
            assert_eq!(contract::identity_objections("AssertionClaims", &claims), Vec::<String>::new(), "{claims}");
            let (thumbprint, verifies) = match algorithm {
                Algorithm::Ps256 => ("x5t#S256", verify(&signature::RSA_PSS_2048_8192_SHA256, &signed, &signature)),
                Algorithm::Rs256 => ("x5t", verify(&signature::RSA_PKCS1_2048_8192_SHA256, &signed, &signature)),
            };
            assert!(verifies, "{algorithm:?}");
            let kind = if thumbprint == "x5t" { &digest::SHA1_FOR_LEGACY_USE_ONLY } else { &digest::SHA256 };
            assert_eq!(header[thumbprint], URL_SAFE_NO_PAD.encode(digest::digest(kind, &der)));
            assert_eq!(header.as_object().unwrap().len(), 3, "{header}");
            let now = "2026-11-01T10:00:00Z".parse::<Timestamp>().unwrap().as_second();
            assert_eq!((claims["nbf"].as_i64(), claims["exp"].as_i64()), (Some(now - 60), Some(now + 540)));
            assert_eq!(claims["aud"], "https://login.example/t/oauth2/token");
        }
    }

    #[test]
    fn the_examples_of_the_contract_have_our_members() {
        for example in contract::identity_examples("AssertionHeader") {
            let algorithm = if example["alg"] == "PS256" { Algorithm::Ps256 } else { Algorithm::Rs256 };
            let (header, ..) = parts(&assertion(algorithm));
            assert!(example.as_object().unwrap().keys().eq(header.as_object().unwrap().keys()), "{example} {header}");
        }
        for example in contract::identity_examples("AssertionClaims") {
            let (_, claims, ..) = parts(&assertion(Algorithm::Ps256));
            assert!(example.as_object().unwrap().keys().eq(claims.as_object().unwrap().keys()));
            let span = |claims: &Value| claims["exp"].as_i64().unwrap() - claims["nbf"].as_i64().unwrap();
            assert_eq!(span(&example), span(&claims));
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        let (certificate, key) = testing::pair();
        let read = |certificate: &str, key: &str| {
            Certificate::from_pem(certificate, &SecretString::from(key.to_owned()), Algorithm::Ps256).unwrap_err()
        };
        assert_eq!(read("x", key.expose_secret()), CredentialError::NoCertificate);
        assert_eq!(read(&certificate, "x"), CredentialError::NoKey);
        let elliptic = rcgen::KeyPair::generate().unwrap();
        assert_eq!(read(&certificate, &elliptic.serialize_pem()), CredentialError::NotRsa);
        let foreign = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&elliptic).unwrap().pem();
        assert_eq!(read(&foreign, key.expose_secret()), CredentialError::Mismatch);
    }

    #[test]
    fn nothing_secret_is_shown() {
        let (certificate, key) = testing::pair();
        let secret = Credential::Secret(SecretString::from("Zk8~q+T1/=example"));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        let certificate = Certificate::from_pem(&certificate, &key, Algorithm::Rs256).unwrap();
        let shown = format!("{:?}", Credential::Certificate(Box::new(certificate)));
        assert!(shown.starts_with("Certificate(Rs256, x5t#S256 "), "{shown}");
        assert_ne!(secret.fingerprint(), Credential::Secret(SecretString::from("other")).fingerprint());
    }
}
