//! What an AADSTS number means to the operator, and what to do next.
//!
//! Numbers and meanings: contract/identity.md, section 7.3. They choose words and may add a retry, never take one away.

/// A sentence and the next step.
pub(super) type Advice = (&'static str, &'static str);

const ROWS: &[(&[u32], Advice)] = &[
    (
        &[7_000_215, 70_002],
        (
            "the client secret is wrong; often the secret's id was pasted in place of its value",
            "put the secret's value into the account's credential, then run `longshore auth test`",
        ),
    ),
    (
        &[7_000_222],
        ("the client secret has expired", "make a new secret in the app registration and configure its value"),
    ),
    (
        &[7_000_218],
        ("neither secret nor assertion arrived", "check that the account's credential is set and not empty"),
    ),
    (
        &[700_025],
        ("the app is registered as a public client", "use an app registration of type Web that may hold a secret"),
    ),
    (
        &[700_027],
        (
            "the certificate is not registered with the app, or the signature does not fit it",
            "upload the certificate to the app registration; check that certificate and key belong together",
        ),
    ),
    (
        &[500_133, 700_024],
        ("the assertion is outside its time range", "set this machine's clock (NTP), then try again"),
    ),
    (&[50_012, 50_013], ("the assertion is not acceptable", "check client id, tenant and certificate of the account")),
    (&[700_030], ("the certificate's subject name is not authorised", "register the certificate's thumbprint instead")),
    (&[700_016, 700_011], ("the app does not exist in this tenant", "check tenant_id and client_id of the account")),
    (&[70_001, 7_000_112], ("the app is disabled in this tenant", "have a directory administrator enable it")),
    (&[90_002], ("the tenant does not exist", "check tenant_id of the account")),
    (
        &[900_382, 900_384],
        ("the tenant belongs to another cloud", "set the authority of the cloud in which the tenant lives"),
    ),
    (
        &[50_001, 500_011],
        (
            "the API is unknown or disabled in this tenant",
            "enrol the organisation in Partner Center; check the audience if it was configured",
        ),
    ),
    (&[70_011, 700_022, 700_023, 28_002], ("the scope is not valid", "check the audience of the account")),
    (
        &[901_002],
        ("a resource was sent to the v2 endpoint", "this is a mistake of Longshore; report it with the trace id"),
    ),
    (
        &[900_144, 9_002_313, 900_561],
        ("the request is malformed", "check that the authority is Microsoft's; else report this with the trace id"),
    ),
    (
        &[9_001_023, 90_124, 90_130, 50_194],
        ("the tenant alias `common` does not serve this sign-in", "configure the tenant's GUID or domain"),
    ),
    (
        &[65_001, 90_094],
        ("consent is missing", "have a directory administrator grant consent to the app's permissions"),
    ),
    (
        &[53_003, 530_032, 530_035, 50_131],
        ("conditional access or security defaults block the app", "have a directory administrator allow the app"),
    ),
    (&[50_196], ("the directory sees too many identical requests", "find out who else signs in with this app; wait")),
];

/// Words for the first known number, else for the `error` value, else for the status.
pub(super) fn advice(codes: &[u32], error: &str, status: u16) -> Advice {
    let known = codes.iter().find_map(|code| ROWS.iter().find(|(numbers, _)| numbers.contains(code)));
    if let Some((_, advice)) = known {
        return *advice;
    }
    match error {
        "invalid_client" => ("the credential was refused", "check secret or certificate of the account"),
        "unauthorized_client" => ("the app may not sign in here", "check tenant_id and client_id of the account"),
        "invalid_resource" | "invalid_scope" => {
            ("the audience is unknown in this tenant", "enrol the organisation in Partner Center; check the audience")
        }
        "interaction_required" | "consent_required" => {
            ("a person must sign in or consent", "have a directory administrator grant consent to the app")
        }
        "invalid_request" | "unsupported_grant_type" => {
            ("the request was refused as malformed", "check authority, tenant_id and client_id of the account")
        }
        "invalid_grant" => ("the grant was refused", "check the account's credential"),
        _ if status == 404 => ("there is no token endpoint at this address", "check authority and tenant_id"),
        _ => ("sign-in was refused", "check the account's settings; `longshore auth test` shows the answer"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_number_has_two_meanings() {
        let numbers: Vec<_> = ROWS.iter().flat_map(|(numbers, _)| *numbers).collect();
        assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
    }

    #[test]
    fn the_most_telling_evidence_wins() {
        assert!(advice(&[1, 7_000_215], "invalid_client", 401).0.contains("the secret's id was pasted"));
        assert!(advice(&[], "invalid_client", 401).0.contains("credential was refused"));
        assert!(advice(&[], "", 404).0.contains("no token endpoint"));
    }
}
