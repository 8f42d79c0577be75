//! A private Azurite, on disk, with an account and key of its own; its SAS by the formula of blob-upload.md, section 3.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use longshore::clock;
use tokio::process::{Child, Command};

use super::tool;

const ACCOUNT: &str = "longshorebench";
const CONTAINER: &str = "packages";
const VERSION: &str = "2021-12-02";

/// A running Azurite.
pub(crate) struct Azurite {
    server: Child,
    address: SocketAddr,
    key: [u8; 64],
}

impl Azurite {
    /// None where it is not installed.
    pub(crate) async fn start(folder: &Path) -> Result<Option<Self>> {
        let Some(script) = tool("AZURITE") else { return Ok(None) };
        // Free a moment ago; whoever else takes it now does not know our account.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let key = clock::random_bytes::<64>();
        let server = Command::new("node")
            .arg(script)
            .args(["--blobHost", "127.0.0.1", "--blobPort", &address.port().to_string()])
            .arg("--location")
            .arg(folder.join("azurite"))
            .args(["--skipApiVersionCheck", "--disableTelemetry", "--silent"])
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{}", STANDARD.encode(key)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("node cannot be started")?;
        let azurite = Self { server, address, key };
        tokio::time::timeout(Duration::from_secs(30), azurite.listening()).await.context("Azurite does not listen")?;
        azurite.create_container().await?;
        Ok(Some(azurite))
    }

    async fn listening(&self) {
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn sign(&self, text: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key);
        STANDARD.encode(hmac::sign(&key, text.as_bytes()))
    }

    async fn create_container(&self) -> Result<()> {
        let date = clock::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let resource = format!("/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container");
        let headers = format!("x-ms-date:{date}\nx-ms-version:{VERSION}\n");
        let signature = self.sign(&format!("PUT{}{headers}{resource}", "\n".repeat(12)));
        let answer = reqwest::Client::builder()
            .no_proxy()
            .build()?
            .put(format!("http://{}/{ACCOUNT}/{CONTAINER}?restype=container", self.address))
            .header("x-ms-date", date)
            .header("x-ms-version", VERSION)
            .header("authorization", format!("SharedKey {ACCOUNT}:{signature}"))
            .header("content-length", "0")
            .send()
            .await?;
        let status = answer.status();
        ensure!(status.is_success(), "no container: {status} {}", answer.text().await?);
        Ok(())
    }

    /// A signed URL of one blob, good for an hour.
    pub(crate) fn url(&self, blob: &str) -> Result<String> {
        let expires = clock::now().checked_add(SignedDuration::from_hours(1))?;
        let expires = Timestamp::from_second(expires.as_second())?.to_string();
        let resource = format!("/blob/{ACCOUNT}/{CONTAINER}/{blob}");
        let lines = ["rcw", "", &expires, &resource, "", "", "", VERSION, "b", "", "", "", "", "", "", ""];
        let signature = self.sign(&lines.join("\n"));
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("sv", VERSION), ("se", &expires), ("sr", "b"), ("sp", "rcw"), ("sig", &signature)])
            .finish();
        Ok(format!("http://{}/{ACCOUNT}/{CONTAINER}/{blob}?{query}", self.address))
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        self.server.kill().await.context("Azurite could not be stopped")
    }
}
