//! An upload slot of the sandbox, got as any client gets one.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use longshore::sandbox::{Account, Options, Sandbox};
use serde_json::{Value, json};

use super::{SIZE, uploader::Sent};

const TENANT: &str = "11111111-2222-4333-8444-555555555555";
const CLIENT: &str = "66666666-7777-4888-8999-aaaaaaaaaaaa";

/// The sandbox and the URL of its slot.
pub(crate) struct Slot {
    sandbox: Sandbox,
    url: String,
}

impl Slot {
    pub(crate) async fn open(folder: &Path) -> Result<Self> {
        let account = Account::new("sandbox", TENANT, CLIENT).with_secret("a secret of the sandbox");
        let options = Options { data_dir: Some(folder.join("sandbox")), accounts: vec![account], ..Options::default() };
        let sandbox = Sandbox::start(options).await?;
        let (base, http) = (sandbox.url(), reqwest::Client::builder().no_proxy().build()?);
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", CLIENT),
            ("client_secret", "a secret of the sandbox"),
            ("resource", "https://manage.devcenter.microsoft.com"),
        ];
        let token: Value = http.post(format!("{base}/{TENANT}/oauth2/token")).form(&form).send().await?.json().await?;
        let token = token.get("access_token").and_then(Value::as_str).context("no token")?.to_owned();
        let products = format!("{base}/v2.0/my/hardware/products");
        let create = async |url: String, body: Value| -> Result<Value> {
            let answer = http.post(url).bearer_auth(&token).json(&body).send().await?;
            let (status, body) = (answer.status(), answer.text().await?);
            ensure!(status.is_success(), "{status}: {body}");
            Ok(serde_json::from_str(&body)?)
        };
        let product = json!({
            "productName": "bench", "testHarness": "attestation", "deviceType": "internalExternal",
            "requestedSignatures": ["WINDOWS_v100_X64_GE_FULL"], "deviceMetadataIds": [], "firmwareVersion": "0",
            "isTestSign": false, "isFlightSign": false, "additionalAttributes": {}, "packageType": "",
            "announcementDate": "2026-11-21T00:00:00Z", "marketingNames": [], "selectedProductTypes": {},
        });
        let product = create(products.clone(), product).await?;
        let id = product.get("id").context("a product without an id")?;
        let submission =
            create(format!("{products}/{id}/submissions"), json!({ "name": "bench", "type": "initial" })).await?;
        let items = submission.pointer("/downloads/items").and_then(Value::as_array).context("no downloads")?;
        let is_slot = |item: &&Value| item.get("type").and_then(Value::as_str) == Some("initialPackage");
        let slot = items.iter().find(is_slot).context("no slot")?;
        let url = slot.get("url").and_then(Value::as_str).context("a slot without a URL")?.to_owned();
        Ok(Self { sandbox, url })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Counts what came in: every block once.
    pub(crate) async fn close(self, parts: &[Sent]) -> Result<()> {
        let verdict = self.sandbox.verdict();
        let count = |name: &str| verdict.pointer(&format!("/totals/{name}")).and_then(Value::as_u64).unwrap_or(0);
        let (bytes, again) = (count("block_bytes_received"), count("acknowledged_blocks_sent_again"));
        println!("  the sandbox received {} blocks, {again} of them again", count("blocks_received"));
        ensure!(again == 0, "{again} finished blocks were sent again");
        ensure!(bytes == SIZE, "{bytes} bytes came in for {SIZE}, in {} parts", parts.len());
        self.sandbox.stop().await;
        Ok(())
    }
}
