//! Client assertions: a signed JWT in place of a secret (identity.md 4.2), really verified against the certificates of
//! the application.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

/// A certificate that an application may sign with.
pub(super) struct Certificate {
    key: DecodingKey,
    sha1: Vec<u8>,
    sha256: Vec<u8>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({})", super::store::hex(&self.sha256))
    }
}

impl Certificate {
    /// Reads the first certificate of a PEM text.
    pub(super) fn read(pem: &str) -> Result<Self, String> {
        let body = pem
            .split_once("-----BEGIN CERTIFICATE-----")
            .and_then(|(_, rest)| rest.split_once("-----END CERTIFICATE-----"))
            .map(|(body, _)| body.split_whitespace().collect::<String>())
            .ok_or("there is no certificate in the PEM text")?;
        let der = STANDARD.decode(&body).map_err(|error| format!("the certificate is damaged: {error}"))?;
        // The decoder takes one block, without the private key that may stand in the same file.
        let block = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", wrapped(&body));
        let key = DecodingKey::from_rsa_pem(block.as_bytes())
            .map_err(|error| format!("the certificate has no RSA key: {error}"))?;
        Ok(Self {
            key,
            sha1: digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &der).as_ref().to_vec(),
            sha256: digest::digest(&digest::SHA256, &der).as_ref().to_vec(),
        })
    }
}

fn wrapped(body: &str) -> String {
    body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n")
}

#[derive(Debug, Deserialize)]
struct Claims {
    aud: String,
    iss: String,
    sub: String,
    jti: String,
    nbf: i64,
    exp: i64,
}

/// What an assertion is judged by.
pub(super) struct Expected<'a> {
    pub(super) client_id: &'a str,
    pub(super) audiences: &'a [String],
    pub(super) certificates: &'a [Certificate],
    /// Seconds since 1970, on the service's clock.
    pub(super) now: i64,
}

/// Why an assertion is refused: the AADSTS number and the text.
pub(super) type Refused = (u32, &'static str);

/// Verifies an assertion and says its `jti`.
pub(super) fn verify(assertion: &str, expected: &Expected<'_>) -> Result<String, Refused> {
    const UNREADABLE: Refused = (50012, "Authentication failed. The client assertion is not a readable token.");
    const UNKNOWN: Refused = (
        700_027,
        "The certificate with identifier used to sign the client assertion is not registered on application.",
    );
    const SIGNATURE: Refused = (700_027, "Client assertion failed signature validation.");
    const CONTENT: Refused =
        (50013, "Assertion failed validation: audience, issuer or subject are not the expected ones.");
    const TIME: Refused = (
        500_133,
        "Assertion is not within its valid time range. Ensure that the access token is not expired before using it for user assertion, or request a new token.",
    );
    let header = jsonwebtoken::decode_header(assertion).map_err(|_| UNREADABLE)?;
    let thumbprint =
        |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=').replace('+', "-").replace('/', "_")).ok();
    let certificate = match (header.alg, &header.x5t_s256, &header.x5t) {
        (Algorithm::PS256, Some(sha256), _) => {
            let wanted = thumbprint(sha256).ok_or(UNREADABLE)?;
            expected.certificates.iter().find(|own| own.sha256 == wanted)
        }
        (Algorithm::RS256, None, Some(sha1)) => {
            let wanted = thumbprint(sha1).ok_or(UNREADABLE)?;
            expected.certificates.iter().find(|own| own.sha1 == wanted)
        }
        (_, _, _) => return Err(UNREADABLE),
    }
    .ok_or(UNKNOWN)?;
    // Times are judged below, on the service's own clock.
    let mut validation = Validation::new(header.alg);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<Claims>(assertion, &certificate.key, &validation).map_err(|error| {
        if matches!(error.kind(), jsonwebtoken::errors::ErrorKind::InvalidSignature) { SIGNATURE } else { UNREADABLE }
    })?;
    let claims = claims.claims;
    let is_client = |id: &str| id.eq_ignore_ascii_case(expected.client_id);
    if !is_client(&claims.iss) || !is_client(&claims.sub) || !expected.audiences.contains(&claims.aud) {
        return Err(CONTENT);
    }
    if claims.jti.is_empty() {
        return Err(UNREADABLE);
    }
    if claims.nbf > expected.now || claims.exp <= expected.now {
        return Err(TIME);
    }
    Ok(claims.jti)
}
